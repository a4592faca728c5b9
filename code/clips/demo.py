"""The synthetic dataset where `input/` is empty: a table of twelve sounds, and their generator."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile as sf
from scipy.fft import irfft, next_fast_len, rfftfreq

import messages

SAMPLE_RATE = 44_100  # Hz

Labels = tuple[str, ...]  # of one clip
Range = float | tuple[float, float]  # a number, or the two between which each sound draws its own
Rng = np.random.Generator


@dataclass(frozen=True)
class Sound:
    """A row of the table: repeated events, each of them partials and noise under one envelope."""

    pitch: Range = 0  # Hz
    partials: Sequence[float] = range(1, 2)  # frequencies / pitch, to two decimals
    tilt: Range = 0  # a partial's amplitude ~ frequency ** -tilt
    steps: Sequence[float] = range(1)  # semitones above the pitch, one event after the other
    glide: Range = 0  # how far above its later pitch an event starts, relative
    noise: Range = 0  # share, from 0 (partials only) to 1
    low: Range = 0  # Hz, the noise's band
    high: Range = SAMPLE_RATE / 2
    attack: Range = 0.001  # s
    decay: Range = np.inf  # s to 1/e; high partials and noise are gone sooner
    flutter: Range = 0  # how far loudness wavers, relative; the pitch follows a little
    swell: Range = 0  # how much an event comes and goes, like something that passes by
    rate: Range = 0  # events per second, but at least one per sound
    jitter: Range = 0  # how late an event may be, in events
    group: Range = np.inf  # events in a row, before as many are left out


SOUNDS = {  # accordion: two reeds a note; car: Doppler effect; bell: hum, prime, third, quint, ...
    "Accordion": Sound((150, 370), np.outer([1, 1.01, 1.26, 1.27, 1.5, 1.51], range(1, 11)).ravel(),
        tilt=(0.6, 1.2), steps=[0, 5, 7, 0], attack=0.05, flutter=(0.05, 0.15), rate=(1, 3)),
    "Acoustic_guitar": Sound((82, 180), range(1, 13), tilt=(0.6, 1.4), steps=[0, 7, 12, 16, 19, 24],
        noise=(0, 0.1), low=500, high=3000, decay=(0.5, 1.5), rate=(2, 6), jitter=0.1),
    "Bass_drum": Sound((40, 70), [1, 1.59, 2.14], tilt=(2, 3), glide=(1, 3),
        noise=(0.05, 0.2), low=800, high=3000, decay=(0.08, 0.25), rate=(1, 3), jitter=0.05),
    "Buzz": Sound((110, 260), range(1, 25), tilt=(0.2, 0.7), flutter=(0.1, 0.4)),
    "Car_passing_by": Sound((60, 140), range(1, 17), tilt=1.2, glide=(0.035, 0.1),
        noise=(0.4, 0.6), low=300, high=(1200, 2500), swell=(5, 12)),
    "Church_bell": Sound((220, 520), [0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.33], tilt=(0.2, 0.7),
        decay=(0.6, 1.4), rate=(0.5, 1.5), jitter=0.1),
    "Cricket": Sound((3000, 5500), attack=0.008, decay=(0.004, 0.01), rate=(25, 50), group=(2, 6)),
    "Drip": Sound((600, 1800), steps=[0, 3, -4, 1, -2, 5, -3], glide=(-0.4, -0.15),
        attack=0.002, decay=(0.015, 0.04), rate=(1.5, 5), jitter=0.8),
    "Hiss": Sound(noise=1, low=(2500, 6000), high=(8000, 16_000), flutter=(0, 0.3)),
    "Knock": Sound((110, 220), [1, 1.7, 2.6, 3.9, 5.3], tilt=(0, 0.5), noise=(0, 0.2), low=300,
        high=2000, decay=(0.02, 0.06), rate=(4, 8), jitter=0.1, group=(2, 5)),
    "Tick-tock": Sound((1500, 2500), [1, 1.52, 2.13, 2.86, 3.74], tilt=(0, 0.5), steps=[0, -4],
        noise=(0, 0.2), low=2000, high=8000, decay=(0.004, 0.02), rate=(2, 6)),
    "Waves_and_surf": Sound(noise=1, low=(40, 200), high=(800, 3000), swell=(3, 8), rate=0.3),
}  # fmt: skip
CLASSES = sorted(SOUNDS)


def sound(name: str, seconds: float, rng: Rng) -> np.ndarray:
    """A sound of class `name`: float64 (samples,) at 44.1 kHz, RMS 1 in the loudest 50 ms."""
    row, n = SOUNDS[name], int(seconds * SAMPLE_RATE)
    row = replace(row, **{k: rng.uniform(*v) for k, v in vars(row).items() if isinstance(v, tuple)})
    rate = max(row.rate, 1 / seconds)
    events = np.arange(np.ceil(rate * seconds))
    late = row.jitter * rng.random(events.size) * (events > 0)
    starts = np.minimum((events + late) / rate * SAMPLE_RATE, n).astype(int)
    event = np.repeat(np.arange(events.size), np.diff(starts, append=n))  # that each sample is of
    since = np.float32((np.arange(n) - starts[event]) / SAMPLE_RATE)  # s from the event's start
    way = row.swell * (since * rate - rng.uniform(0.3, 0.7))
    distance = np.sqrt(1 + way**2)  # from a listener beside the way, at 1 from its nearest point
    waver = row.flutter * np.sin(2 * np.pi * rng.uniform(1, 5) * since)

    pitch = row.pitch * 2 ** (np.resize(row.steps, events.size) / 12)
    bend = (1 + waver / 15) * (1 + row.glide * (np.exp(-2 * since / row.decay) - way / distance))
    tone = _tone(row, np.cumsum(pitch[event] * bend) / SAMPLE_RATE, since, rng)
    noise = _noise(n, row.low, row.high, rng) * np.exp(-10 * since / row.decay) if row.noise else 0
    loudness = rng.uniform(0.6, 1, events.size) * (events // row.group % 2 == 0)
    envelope = np.minimum(since / row.attack, 1) * np.exp(waver - since / row.decay) / distance
    wave = loudness[event] * envelope * (tone + row.noise * (noise - tone))
    energy = np.add.reduceat(wave**2, np.arange(0, n, SAMPLE_RATE // 20))
    return wave / np.sqrt(energy.max() / (SAMPLE_RATE // 20))


def _tone(row: Sound, cycles: np.ndarray, since: np.ndarray, rng: Rng) -> np.ndarray:
    """The partials, read from a table of 100 cycles; those above the pitch soon grow weaker."""
    partials = np.array(row.partials)
    bright = partials**-row.tilt * rng.uniform(0.4, 1.6, partials.size)
    mellow = bright / np.maximum(1, partials) ** 2
    spectra = [np.bincount(np.rint(100 * partials).astype(int), a) for a in (bright, mellow)]
    spectra *= np.exp(2j * np.pi * rng.random(spectra[0].size)) / np.linalg.norm(spectra[0])
    size = 1 << 16  # so fine that reading the nearest entry is enough
    bright, mellow = irfft(spectra.astype(np.complex64), size) * (size / np.sqrt(2))  # unit RMS
    index = (cycles * (size / 100)).astype(int) & (size - 1)  # modulo size
    return mellow[index] + np.exp(-5 * since / row.decay) * (bright - mellow)[index]


def _noise(n: int, low: float, high: float, rng: Rng) -> np.ndarray:
    """Unit-RMS noise from `low` to `high` Hz, with slopes of 12 dB per octave outside."""
    size = next_fast_len(n, real=True)
    f = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 10).astype(np.float32)
    white = (rng.random(2 * f.size, np.float32) - 0.5).view(np.complex64)
    noise = irfft(white / ((1 + (low / f) ** 2) * (1 + (f / high) ** 2)), size)[:n]
    return noise / np.sqrt(np.mean(noise**2))


def make_clip(labels: Labels, rng: Rng) -> np.ndarray:
    """One clip: the labelled sounds over background noise, with near-silence at both edges.

    The first label sounds throughout; another one starts later and is up to 8 dB quieter. Gives
    float64 (samples,) at 44.1 kHz, 0.4 to 10 s long, peak between -12 and -1 dB of full scale.
    """
    seconds = np.clip(rng.lognormal(np.log(2.5), 0.65), 0.4, 9)
    background, peak, hum = 10 ** (rng.uniform([-45, -12, -82], [-20, -1, -72]) / 20)  # from dB
    content = sound(labels[0], seconds, rng)
    for label in labels[1:]:
        other = sound(label, seconds * rng.uniform(0.6, 1), rng)
        content[-other.size :] += rng.uniform(0.4, 1) * other
    content += background * _noise(content.size, 50, 5000, rng)
    content[-500:] *= np.linspace(1, 0, 500)  # no click; sounds start softly themselves
    clip = np.pad(content * (peak / np.abs(content).max()), rng.integers(SAMPLE_RATE // 2, size=2))
    # Silence is digital, or a hum of electronics far below what trimming takes for sound.
    return clip + rng.integers(2) * peak * hum * rng.uniform(-1, 1, clip.size)


def draw_labels(n: int, rng: Rng) -> list[Labels]:
    """Labels of `n` clips: every class first equally often, a fifth of the clips with a second."""
    firsts = rng.permutation(np.resize(rng.permutation(CLASSES), n)).tolist()
    pairs = (rng.permutation(n) < round(0.2 * n)).tolist()
    return [(name, *_others([name], rng)[:pair]) for name, pair in zip(firsts, pairs, strict=True)]


def corrupt_labels(labels: list[Labels], rng: Rng) -> list[Labels]:
    """The same rows, 40 % of them with as many labels, all of them wrong."""
    wrong = rng.permutation(len(labels)) < round(0.4 * len(labels))
    return [_others(row, rng) if bad else row for row, bad in zip(labels, wrong, strict=True)]


def _others(row: Sequence[str], rng: Rng) -> Labels:
    """As many classes as in `row`, none of them in it."""
    rest = [name for name in CLASSES if name not in row]
    return tuple(rng.choice(rest, len(row), replace=False).tolist())


def make_demo_dataset(
    root: Path, seed: int = 2019, n_curated: int = 240, n_noisy: int = 160, n_test: int = 100
) -> None:
    """Write a synthetic dataset in FSDKaggle2019's layout: four tables and the clips they name.

    The folder appears whole or not at all. The same arguments give the same bytes. InputError if
    `root` is there already; it is left as it is.
    """
    if root.exists():
        raise messages.InputError(
            f"{root} is there already: delete it to make the demo dataset anew"
        )
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # what a killed run left behind
    sizes = {"train_curated": n_curated, "train_noisy": n_noisy, "test_post_competition": n_test}
    try:
        _write_dataset(part, sizes, np.random.default_rng(seed))
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_dataset(root: Path, sizes: dict[str, int], rng: Rng) -> None:
    numbers = iter(rng.choice(2**32, sum(sizes.values()), replace=False))
    for name, n in sizes.items():
        fnames = sorted(f"{next(numbers):08x}.wav" for _ in range(n))  # no hint at the class
        truth = draw_labels(n, rng)
        told = corrupt_labels(truth, rng) if name == "train_noisy" else truth
        table = pd.DataFrame({"fname": fnames, "labels": [",".join(row) for row in told]})
        folder = root / f"audio_{name.split('_')[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        for i in messages.progress_bar(f"making {name}", n, iterable=range(n)):
            sf.write(folder / fnames[i], make_clip(truth[i], rng), SAMPLE_RATE, subtype="PCM_16")
        if folder.name == "audio_test":
            table["usage"] = np.where(rng.permutation(n) < round(0.3 * n), "Public", "Private")
            zeros = pd.DataFrame(0, fnames, CLASSES)
            zeros.to_csv(root / "sample_submission.csv", index_label="fname")
        table.to_csv(root / f"{name}.csv", index=False)
