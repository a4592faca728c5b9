"""The synthetic dataset that stands in where `input/` is empty.

Twelve of FSDKaggle2019's 80 classes, each a small physical model of its sound with random pitch,
tempo and timbre. First the sound models and their table, then the mixing, then the writing.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile as sf
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import lfilter

import messages

SAMPLE_RATE = 44_100  # Hz
SPEED_OF_SOUND = 343.0  # m/s
TWO_LABEL_SHARE = 0.2
WRONG_LABEL_SHARE = 0.4  # of the noisy rows
PUBLIC_SHARE = 0.3  # of the test rows

Array = np.ndarray
Rng = np.random.Generator

# --- building blocks ------------------------------------------------------------------------------


def _time(seconds: float) -> Array:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _noise(n: int, rng: Rng, low: float, high: float, slope: float = 0.0) -> Array:
    """Unit-RMS noise, amplitude ~ f ** -slope from `low` to `high` Hz, 12 dB per octave outside."""
    size = next_fast_len(n, real=True)
    f = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 10).astype(np.float32)
    gain = f**-slope / ((1 + (low / f) ** 2) * (1 + (f / high) ** 2))
    white = rng.standard_normal(2 * f.size, np.float32).view(np.complex64)
    noise = irfft(gain * white, size)[:n]
    return noise / np.sqrt(np.mean(noise**2))


def _periodic(phase: Array, harmonics: Array) -> Array:
    """A periodic wave, given by its harmonics' amplitudes, at `phase` (in periods)."""
    size = 1 << 14  # so fine that reading the nearest sample is enough
    period = irfft(np.append(0, harmonics), size) * (size / 2)
    return period[(phase * size).astype(int) % size]


def _modes(seconds: float, frequencies: Array, amplitudes: Array, decays: Array) -> Array:
    """A struck body: resonances (Hz), each falling to 1/e in its decay time (s), and a blow."""
    blow = np.zeros(int(min(seconds, 6 * np.max(decays)) * SAMPLE_RATE))
    blow[0] = 1
    poles = np.exp((2j * np.pi * frequencies - 1 / decays) / SAMPLE_RATE)
    modes = zip(amplitudes, poles, strict=True)
    return sum(lfilter([0, a * p.imag], [1, -2 * p.real, abs(p) ** 2], blow) for a, p in modes)


def _sequence(seconds: float, starts: Array, events: Iterable[Array]) -> Array:
    """The sum of the events, each from its start (s) on; what rings beyond the end is cut off."""
    wave = np.zeros(int(seconds * SAMPLE_RATE))
    for start, event in zip((starts * SAMPLE_RATE).astype(int), events, strict=True):
        wave[start : start + event.size] += event[: wave.size - start]
    return wave


def _beats(seconds: float, rate: float, jitter: float, rng: Rng) -> Array:
    """Times (s) of `rate` beats per second, each late by up to `jitter` of a beat but the first."""
    beats = np.arange(0.02, seconds, 1 / rate)
    beats[1:] += rng.uniform(0, jitter, beats.size - 1) / rate
    return beats[beats < seconds]


# --- sound models: name(seconds, rng) -> waveform at any level ------------------------------------


def accordion(seconds: float, rng: Rng) -> Array:
    """Free reeds, two per note and a few cents apart, playing chords."""
    t, rate = _time(seconds), rng.uniform(1, 3)
    chord = (t * rate).astype(int)
    roots = 220 * 2 ** (rng.integers(-5, 10, chord[-1] + 1) / 12)
    harmonics = rng.uniform(0.4, 1.6, 16) / np.arange(1, 17) ** rng.uniform(0.6, 1.2)
    wave = np.zeros(t.size)
    for interval in [(0, 7), (0, 4, 7), (0, 3, 7)][rng.integers(3)]:
        for detune in (1.0, rng.uniform(1.002, 1.008)):
            cycles = np.cumsum(roots[chord] * 2 ** (interval / 12) * detune) / SAMPLE_RATE
            wave += _periodic(cycles + rng.random(), harmonics)
    attack = np.minimum(1, (t * rate % 1) / (0.05 * rate))  # a reed takes 50 ms to speak
    bellows = 1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * t)
    return wave * attack * bellows


def acoustic_guitar(seconds: float, rng: Rng) -> Array:
    """A picked chord on Karplus-Strong strings."""
    root, strings = rng.uniform(82, 180), np.array([0, 7, 12, 16, 19, 24])
    ring, softness = rng.uniform(1, 2.5), rng.uniform(2, 5)
    starts = _beats(seconds, rng.uniform(2, 6), 0.1, rng)
    notes = root * 2 ** (rng.choice(strings, starts.size) / 12)
    return _sequence(seconds, starts, (_pluck(note, ring, softness, rng) for note in notes))


def _pluck(frequency: float, ring: float, softness: float, rng: Rng) -> Array:
    """Karplus-Strong in closed form: a burst of noise that passes through the loop again and again.

    The loop filters each period once more, so harmonic by harmonic the passes are powers of its
    gain: all of them come from one inverse FFT, where the recursion would go sample by sample.
    """
    period = round(SAMPLE_RATE / frequency)
    harmonic = np.arange(period // 2 + 1)
    two_point_mean = np.maximum(0, np.cos(np.pi * harmonic / period))
    # Low strings have long periods and few passes: without more damping they sound like wire.
    gain = 10 ** (-3 / (ring * frequency)) * two_point_mean ** (softness * period / 100)
    passes = np.arange(int(ring * frequency))[:, None]
    burst = rfft(rng.uniform(-1, 1, period)) * two_point_mean**20
    burst[0] = 0
    return irfft(burst * gain**passes, period).ravel()


def bass_drum(seconds: float, rng: Rng) -> Array:
    """A membrane whose pitch drops as the stroke's tension relaxes, and the beater's click."""
    rest, relaxation = rng.uniform(40, 70), rng.uniform(0.02, 0.05)
    stretched = rest * rng.uniform(2, 4)
    t = _time(0.8)
    cycles = rest * t + (stretched - rest) * relaxation * (1 - np.exp(-t / relaxation))
    boom = np.sin(2 * np.pi * cycles) * np.exp(-t / rng.uniform(0.08, 0.25))
    click = rng.uniform(0.03, 0.15) * _noise(t.size, rng, 800, 3000) * np.exp(-t / 0.005)
    starts = _beats(seconds, rng.uniform(1, 3), 0.05, rng)
    return _sequence(seconds, starts, np.outer(rng.uniform(0.5, 1, starts.size), boom + click))


def buzz(seconds: float, rng: Rng) -> Array:
    """An insect's wings: a narrow pulse, wandering in pitch and loudness."""
    n = int(seconds * SAMPLE_RATE)
    wander, flutter = _noise(n, rng, 0, 4), _noise(n, rng, 0, 4)
    pitch = rng.uniform(110, 260) * (1 + rng.uniform(0.005, 0.03) * wander)
    harmonics = np.arange(1, 41.0) ** -rng.uniform(0.2, 0.7)
    return _periodic(np.cumsum(pitch) / SAMPLE_RATE, harmonics) * np.exp(0.3 * flutter)


def car_passing_by(seconds: float, rng: Rng) -> Array:
    """Engine and tyres on a straight road past the listener, with Doppler effect and distance."""
    speed, c = rng.uniform(12, 35), SPEED_OF_SOUND  # m/s
    nearest = np.clip(rng.uniform(0.05, 0.15) * seconds * speed, 2, 15)  # m
    t = _time(seconds) - rng.uniform(0.3, 0.7) * seconds
    # What is heard at t left the car at `sent`: c (t - sent) = distance(sent), solved for sent.
    slack = c**2 - speed**2
    sent = (c**2 * t - np.sqrt((c * speed * t) ** 2 + nearest**2 * slack)) / slack
    distance = c * (t - sent)
    sent -= sent[0]
    at_car = _time(sent[-1] + 0.01)
    engine = _periodic(at_car * rng.uniform(60, 140), np.arange(1, 21) ** -1.2)
    tyres = _noise(at_car.size, rng, 300, rng.uniform(1200, 2500))
    source = rng.uniform(0.7, 1.5) * engine / np.std(engine) + tyres
    return np.interp(sent, at_car, source) / distance


def church_bell(seconds: float, rng: Rng) -> Array:
    """Hum, prime, minor third, quint, nominal and above; high partials decay faster."""
    pitch = rng.uniform(220, 520)
    partials = np.array([0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.33]) * rng.normal(1, 0.004, 10)
    loudness = np.array([0.6, 0.7, 1, 0.4, 1, 0.4, 0.3, 0.4, 0.3, 0.2]) * rng.uniform(0.6, 1.4, 10)
    toll = _modes(seconds, pitch * partials, loudness, rng.uniform(0.6, 1.4) / partials)
    starts = _beats(seconds, rng.uniform(0.5, 1.5), 0.1, rng)
    return _sequence(seconds, starts, np.outer(rng.uniform(0.7, 1, starts.size), toll))


def cricket(seconds: float, rng: Rng) -> Array:
    """A high tone in pulses, one per stroke of the wings, a few pulses to a chirp."""
    t = _time(seconds)
    strokes_per_second, strokes = rng.uniform(25, 50), rng.integers(2, 6)
    chirp_period = strokes / strokes_per_second * rng.uniform(1.5, 3.5)
    stroke = (t % chirp_period) * strokes_per_second  # strokes since the chirp began
    envelope = np.where(stroke < strokes, np.sin(np.pi * (stroke % 1)) ** 2, 0)
    glide = -0.005 * np.cos(2 * np.pi * stroke) / strokes_per_second  # the wing slows down
    return envelope * np.sin(2 * np.pi * rng.uniform(3000, 5500) * (t + glide))


def drip(seconds: float, rng: Rng) -> Array:
    """Drops that shut in a bubble, whose ringing rises in pitch as it nears the surface."""
    t, decay = _time(0.2), rng.uniform(0.015, 0.04)
    rising = 2 * np.pi * t * (1 + rng.uniform(1.5, 5) * t)
    starts = _beats(seconds, rng.uniform(1.5, 5), 0.8, rng)
    pitches = rng.uniform(600, 1800) * rng.uniform(0.75, 1.3, starts.size)
    drops = np.sin(np.outer(pitches, rising)) * np.exp(-t / decay)
    return _sequence(seconds, starts, drops * rng.uniform(0.3, 1, (starts.size, 1)))


def hiss(seconds: float, rng: Rng) -> Array:
    """Escaping steam: steady noise without low frequencies."""
    t = _time(seconds)
    flicker = np.sin(2 * np.pi * (rng.uniform(0.2, 2) * t + rng.random()))
    pressure = 1 + rng.uniform(0, 0.4) * flicker
    return pressure * _noise(t.size, rng, rng.uniform(2500, 6000), rng.uniform(8000, 16000))


def knock(seconds: float, rng: Rng) -> Array:
    """Knuckles on a wooden door: a few low modes, in groups of two to five blows."""
    low_modes = rng.uniform(110, 220) * np.array([1, 1.7, 2.6, 3.9, 5.3]) * rng.normal(1, 0.05, 5)
    blow = _modes(seconds, low_modes, rng.uniform(0.3, 1, 5), rng.uniform(0.012, 0.035, 5))
    beats = _beats(seconds, rng.uniform(4, 8), 0.1, rng)
    starts = beats[np.arange(beats.size) % 8 < rng.integers(2, 6)]  # the hand rests between groups
    return _sequence(seconds, starts, np.outer(rng.uniform(0.6, 1, starts.size), blow))


def tick_tock(seconds: float, rng: Rng) -> Array:
    """A clock's escapement: two short bright clicks in turn, in strict time."""
    modes, loudness = rng.uniform(1500, 8000, 6), rng.uniform(0.3, 1, 6)
    decays, lower = rng.uniform(0.002, 0.01, 6), rng.uniform(0.65, 0.85)
    tick = _modes(seconds, modes, loudness, decays)
    tock = _modes(seconds, modes * lower, loudness * rng.uniform(0.6, 1), decays)
    starts = _beats(seconds, rng.uniform(2, 6), 0, rng)
    return _sequence(seconds, starts, [(tick, tock)[i % 2] for i in range(starts.size)])


def waves_and_surf(seconds: float, rng: Rng) -> Array:
    """Rumble that swells slowly, and foam that breaks out at the height of each wave."""
    t = _time(seconds)
    phase = t / rng.uniform(2.5, 6) + rng.random()
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * (phase + 0.1 * np.sin(2 * np.pi * phase)))
    rumble = _noise(t.size, rng, 40, 3000, slope=0.8)
    foam = _noise(t.size, rng, 500, 6000, slope=0.3)
    return (0.2 + 0.8 * swell) * rumble + swell**3 * rng.uniform(0.5, 1.2) * foam


SOUNDS = {
    "Accordion": accordion,
    "Acoustic_guitar": acoustic_guitar,
    "Bass_drum": bass_drum,
    "Buzz": buzz,
    "Car_passing_by": car_passing_by,
    "Church_bell": church_bell,
    "Cricket": cricket,
    "Drip": drip,
    "Hiss": hiss,
    "Knock": knock,
    "Tick-tock": tick_tock,
    "Waves_and_surf": waves_and_surf,
}
CLASSES = sorted(SOUNDS)

# --- mixing ---------------------------------------------------------------------------------------


def make_clip(labels: Iterable[str], rng: Rng) -> Array:
    """One clip: the labelled sounds over background noise, with near-silence at both edges.

    The first label sounds throughout; another one starts later and is up to 8 dB quieter. Gives
    float64 (samples,) at 44.1 kHz, 0.4 to 10 s long, peak between -12 and -1 dB of full scale.
    """
    seconds = np.clip(rng.lognormal(np.log(2.5), 0.65), 0.4, 9)
    content = _mix(labels, seconds, rng)
    content *= _decibels(rng.uniform(-12, -1)) / np.abs(content).max()
    # Either digital silence or a hum of electronics far below what trimming takes for sound.
    floor = rng.choice([0, _decibels(rng.uniform(-82, -72))]) * np.abs(content).max()
    lead, trail = (floor * rng.standard_normal(rng.integers(SAMPLE_RATE // 2)) for _ in range(2))
    return np.concatenate([lead, content, trail])


def _mix(labels: Iterable[str], seconds: float, rng: Rng) -> Array:
    first, *others = labels
    content = _equally_loud(SOUNDS[first](seconds, rng))
    for label in others:
        delay = rng.uniform(0, 0.4) * seconds
        other = _equally_loud(SOUNDS[label](seconds - delay, rng))
        content[-other.size :] += _decibels(rng.uniform(-8, 0)) * other
    content += _decibels(rng.uniform(-45, -20)) * _noise(content.size, rng, 20, 20_000, slope=0.5)
    fade = np.minimum(1, np.arange(content.size) / (0.01 * SAMPLE_RATE))  # 10 ms, against clicks
    return content * fade * fade[::-1]


def _equally_loud(wave: Array) -> Array:
    """Scaled to RMS 1 in the loudest 50 ms, so that sparse and steady sounds can be compared."""
    block = SAMPLE_RATE // 20
    energy = np.add.reduceat(wave**2, np.arange(0, wave.size, block)) / block
    return wave / np.sqrt(energy.max())


def _decibels(level: float) -> float:
    return 10 ** (level / 20)


# --- labels ---------------------------------------------------------------------------------------


def draw_labels(n: int, rng: Rng) -> list[tuple[str, ...]]:
    """Labels of `n` clips: every class first equally often, a fifth of the clips with a second."""
    firsts = rng.permutation(np.resize(rng.permutation(CLASSES), n)).tolist()
    pairs = _exact_share(TWO_LABEL_SHARE, n, rng)
    return [
        (first, *_others((first,), rng)) if pair else (first,)
        for first, pair in zip(firsts, pairs, strict=True)
    ]


def corrupt_labels(
    labels: list[tuple[str, ...]], rng: Rng, share: float = WRONG_LABEL_SHARE
) -> list[tuple[str, ...]]:
    """The same rows, a `share` of them with as many labels, all of them wrong."""
    wrong = _exact_share(share, len(labels), rng)
    return [_others(row, rng) if bad else row for row, bad in zip(labels, wrong, strict=True)]


def _others(row: tuple[str, ...], rng: Rng) -> tuple[str, ...]:
    """As many classes as in `row`, none of them in it."""
    rest = [name for name in CLASSES if name not in row]
    return tuple(rng.choice(rest, len(row), replace=False).tolist())


def _exact_share(share: float, n: int, rng: Rng) -> Array:
    """Boolean (n,), true in round(share * n) random places."""
    return rng.permutation(n) < round(share * n)


# --- writing --------------------------------------------------------------------------------------


def make_demo_dataset(
    root: Path, seed: int = 2019, n_curated: int = 240, n_noisy: int = 160, n_test: int = 100
) -> None:
    """Write a synthetic dataset in FSDKaggle2019's layout: four tables and the clips they name.

    The folder appears whole or not at all. The same seed and sizes give the same bytes.

    Parameters
    ----------
    root : Path
        The folder to make; its parents are made as needed.
    seed : int
    n_curated, n_noisy, n_test : int
        Clips per split. Of the noisy ones, 40 % are labelled wrongly.

    Raises
    ------
    FileExistsError
        If `root` is there already; it is left as it is.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root} is there already: delete it to make the demo dataset anew")
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # what a killed run left behind
    try:
        _write_dataset(part, np.random.default_rng(seed), n_curated, n_noisy, n_test)
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_dataset(root: Path, rng: Rng, n_curated: int, n_noisy: int, n_test: int) -> None:
    n_train = n_curated + n_noisy
    numbers = rng.choice(2**32, n_train + n_test, replace=False)
    fnames = [f"{number:08x}.wav" for number in numbers]  # no hint at the class
    splits = (fnames[:n_curated], fnames[n_curated:n_train], fnames[n_train:])
    curated, noisy, test = (
        dict(zip(sorted(split), draw_labels(len(split), rng), strict=True)) for split in splits
    )
    noisy_labels = corrupt_labels(list(noisy.values()), rng)
    public = _exact_share(PUBLIC_SHARE, n_test, rng)

    _write_clips(root / "audio_train", curated | noisy, rng)
    _write_clips(root / "audio_test", test, rng)
    _write_labels(root / "train_curated.csv", curated, curated.values())
    _write_labels(root / "train_noisy.csv", noisy, noisy_labels)
    usage = np.where(public, "Public", "Private")
    _write_labels(root / "test_post_competition.csv", test, test.values(), usage=usage)
    submission = pd.DataFrame({"fname": list(test), **dict.fromkeys(CLASSES, 0)})
    submission.to_csv(root / "sample_submission.csv", index=False)


def _write_clips(folder: Path, labels: dict[str, tuple[str, ...]], rng: Rng) -> None:
    folder.mkdir(parents=True)
    clips = zip(labels.items(), rng.spawn(len(labels)), strict=True)
    bar = messages.progress_bar(f"making {folder.name}", len(labels), iterable=clips)
    for (fname, row), clip_rng in bar:
        samples = np.round(make_clip(row, clip_rng) * 32767).astype(np.int16)
        sf.write(folder / fname, samples, SAMPLE_RATE, subtype="PCM_16")


def _write_labels(path: Path, fnames: Iterable[str], labels: Iterable, **columns: Iterable) -> None:
    joined = [",".join(row) for row in labels]
    table = pd.DataFrame({"fname": list(fnames), "labels": joined, **columns})
    table.to_csv(path, index=False)
