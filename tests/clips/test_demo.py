import csv
import dataclasses
import re
from collections import Counter

import librosa
import numpy as np
import pytest
import soundfile as sf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clips import demo
from clips.demo import CLASSES, corrupt_labels, draw_labels, make_clip, make_demo_dataset, sound
from messages import InputError

SIZES = {"n_curated": 24, "n_noisy": 12, "n_test": 12}
TINY = {"n_curated": 2, "n_noisy": 2, "n_test": 2}
TABLES = {"train_curated": "audio_train", "train_noisy": "audio_train"}
TABLES["test_post_competition"] = "audio_test"
FSDKAGGLE2019 = """
    Accelerating_and_revving_and_vroom Accordion Acoustic_guitar Applause Bark Bass_drum
    Bass_guitar Bathtub_(filling_or_washing) Bicycle_bell Burping_and_eructation Bus Buzz
    Car_passing_by Cheering Chewing_and_mastication Child_speech_and_kid_speaking
    Chink_and_clink Chirp_and_tweet Church_bell Clapping Computer_keyboard Crackle Cricket Crowd
    Cupboard_open_or_close Cutlery_and_silverware Dishes_and_pots_and_pans Drawer_open_or_close
    Drip Electric_guitar Fart Female_singing Female_speech_and_woman_speaking Fill_(with_liquid)
    Finger_snapping Frying_(food) Gasp Glockenspiel Gong Gurgling Harmonica Hi-hat Hiss
    Keys_jangling Knock Male_singing Male_speech_and_man_speaking Marimba_and_xylophone
    Mechanical_fan Meow Microwave_oven Motorcycle Printer Purr Race_car_and_auto_racing Raindrop
    Run Scissors Screaming Shatter Sigh Sink_(filling_or_washing) Skateboard Slam Sneeze Squeak
    Stream Strum Tap Tick-tock Toilet_flush Traffic_noise_and_roadway_noise Trickle_and_dribble
    Walk_and_footsteps Water_tap_and_faucet Waves_and_surf Whispering Writing Yell
    Zipper_(clothing)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "input"
    make_demo_dataset(root, **SIZES)
    return root


@pytest.fixture(scope="module")
def waves(root):
    return {path.name: sf.read(path, dtype="int16")[0] for path in root.glob("audio_*/*.wav")}


def rows(root, table):
    with (root / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- layout ---------------------------------------------------------------------------------------


def test_tables_have_the_competitions_columns_and_rows(root):
    for table, n in zip(TABLES, SIZES.values(), strict=True):
        usage = ["usage"] * table.startswith("test")
        assert list(rows(root, table)[0]) == ["fname", "labels", *usage]
        assert len(rows(root, table)) == n


def test_every_clip_is_in_one_table_and_every_row_has_its_clip(root):
    named = [f"{TABLES[table]}/{row['fname']}" for table in TABLES for row in rows(root, table)]
    assert sorted(named) == sorted(f"{p.parent.name}/{p.name}" for p in root.glob("*/*"))


def test_file_names_are_eight_hex_digits(waves):
    assert all(re.fullmatch(r"[0-9a-f]{8}\.wav", name) for name in waves)


def test_sample_submission_has_a_zero_for_every_test_clip_and_class(root):
    submission = rows(root, "sample_submission")
    assert list(submission[0]) == ["fname", *CLASSES]
    tested = [row["fname"] for row in rows(root, "test_post_competition")]
    assert [row.pop("fname") for row in submission] == tested
    assert {float(value) for row in submission for value in row.values()} == {0.0}


def test_vocabulary_is_sorted_and_of_fsdkaggle2019():
    vocabulary = FSDKAGGLE2019.split()
    assert len(vocabulary) == 80
    assert len(CLASSES) == 12
    assert [name for name in vocabulary if name in CLASSES] == CLASSES


def test_about_a_third_of_the_test_clips_is_public(root):
    usage = Counter(row["usage"] for row in rows(root, "test_post_competition"))
    assert usage == {"Public": 4, "Private": 8}


# --- labels ---------------------------------------------------------------------------------------


def test_a_fifth_of_the_clips_has_a_second_other_label(root):
    for table, n in zip(TABLES, SIZES.values(), strict=True):
        labels = [row["labels"].split(",") for row in rows(root, table)]
        assert sum(len(row) == 2 for row in labels) == round(n / 5)
        assert all(len(set(row)) == len(row) <= 2 for row in labels)


def test_every_class_comes_first_equally_often():
    firsts = Counter(row[0] for row in draw_labels(100, np.random.default_rng(0)))
    assert set(firsts) == set(CLASSES)
    assert max(firsts.values()) - min(firsts.values()) <= 1


def test_wrong_labels_share_no_label_with_the_truth_and_keep_its_count():
    truth = draw_labels(200, np.random.default_rng(0))
    given = corrupt_labels(truth, np.random.default_rng(1))
    wrong = [(t, g) for t, g in zip(truth, given, strict=True) if t != g]
    assert len(wrong) == 80
    for true, false in wrong:
        assert not set(true) & set(false)
        assert len(set(false)) == len(true)


def test_only_the_noisy_table_has_wrong_labels(tmp_path, monkeypatch):
    heard = []

    def spy(labels, rng):
        heard.append(tuple(labels))
        return np.full(10, 0.5)

    monkeypatch.setattr(demo, "make_clip", spy)
    make_demo_dataset(tmp_path / "input", n_curated=50, n_noisy=50, n_test=50)
    told = [row["labels"] for table in TABLES for row in rows(tmp_path / "input", table)]
    differs = [",".join(h) != t for h, t in zip(heard, told, strict=True)]
    assert np.add.reduceat(differs, [0, 50, 100], dtype=int).tolist() == [0, 20, 0]


# --- clips ----------------------------------------------------------------------------------------


def test_clips_are_16_bit_mono_at_44100_hz(root):
    formats = {
        (info.format, info.subtype, info.samplerate, info.channels)
        for info in map(sf.info, root.glob("audio_*/*.wav"))
    }
    assert formats == {("WAV", "PCM_16", 44100, 1)}


def test_clips_last_between_0_4_and_10_5_seconds_and_differ_in_length(waves):
    seconds = [wave.size / 44100 for wave in waves.values()]
    assert min(seconds) >= 0.4
    assert max(seconds) <= 10.5
    assert 2 < np.median(seconds) < 4.5
    assert max(seconds) > 2 * min(seconds)


def test_clips_are_audible_and_do_not_clip(waves):
    peaks = 20 * np.log10([np.abs(wave.astype(int)).max() / 32768 for wave in waves.values()])
    assert peaks.min() > -13
    assert peaks.max() < -0.5


def test_edges_are_silent_some_digitally_and_some_faintly():
    starts = [make_clip(["Hiss"], np.random.default_rng(seed))[:100] for seed in range(12)]
    peaks = [np.abs(start).max() for start in starts]
    assert 0 in peaks
    assert any(0 < peak < 10 ** (-60 / 20) for peak in peaks)
    assert sum(peak > 10 ** (-60 / 20) for peak in peaks) <= 1  # one may start with the sound


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("seconds", [0.24, 1.7])
def test_a_sound_is_finite_and_as_long_and_loud_as_asked(name, seconds):
    for seed in range(5):
        wave = sound(name, seconds, np.random.default_rng(seed))
        assert wave.shape == (int(seconds * 44100),)
        blocks = [wave[i : i + 2205] for i in range(0, wave.size, 2205)]
        assert max(np.sum(block**2) / 2205 for block in blocks) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_a_sound_differs_from_one_to_the_next(name):
    one, other = (sound(name, 1.0, np.random.default_rng(seed)) for seed in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.9


def pure(name, seconds, monkeypatch, **fixed):
    """A sound of the class without noise, some of its ranges fixed; and its levels, in 10 ms."""
    row = dataclasses.replace(demo.SOUNDS[name], noise=0, **fixed)
    monkeypatch.setitem(demo.SOUNDS, name, row)
    wave = sound(name, seconds, np.random.default_rng(0))
    return wave, np.sqrt(np.mean(wave[: wave.size // 441 * 441].reshape(-1, 441) ** 2, axis=1))


def pitch(wave):
    """The strongest frequency, in Hz."""
    return np.abs(np.fft.rfft(wave, 1 << 18)).argmax() * 44100 / (1 << 18)


def test_a_passing_car_swells_and_falls_in_loudness_and_drops_in_pitch(monkeypatch):
    wave, level = pure("Car_passing_by", 6.0, monkeypatch, pitch=100, partials=[1])
    assert 1.05 < pitch(wave[:44100]) / pitch(wave[-44100:]) < 1.25
    assert 0.25 < level.argmax() / level.size < 0.75
    assert max(level[0], level[-1]) < 0.6 * level.max()


def test_a_bell_rings_at_its_inharmonic_partials_and_decays(monkeypatch):
    wave, level = pure("Church_bell", 3.0, monkeypatch, pitch=400, decay=1, rate=0.1)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(wave.size)))
    rung = np.flatnonzero(spectrum > 0.05 * spectrum.max()) / 3.0 / 400
    partials = np.array([0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.33])
    distance = np.abs(rung[:, None] - partials)
    assert distance.min(axis=1).max() < 0.05
    assert len(set(distance.argmin(axis=1))) >= 4
    assert level[-1] < 0.1 * level[:10].max()


def test_a_drum_falls_and_a_drop_rises_in_pitch(monkeypatch):
    drum, _ = pure("Bass_drum", 0.4, monkeypatch, partials=[1], decay=0.2)
    assert pitch(drum[:2205]) > 1.3 * pitch(drum[-8820:])
    drop, _ = pure("Drip", 0.1, monkeypatch, decay=0.04)
    assert pitch(drop[:441]) < pitch(drop[-2205:])


def test_a_clock_ticks_shortly_and_in_strict_time(monkeypatch):
    _, level = pure("Tick-tock", 3.0, monkeypatch, rate=4)
    ticks = level.reshape(12, 25)
    assert (ticks[:, :3].max(axis=1) > 5 * ticks[:, 15:].max(axis=1)).all()


def test_knocks_and_chirps_come_in_groups_with_rests(monkeypatch):
    for name, rate, fixed in [("Knock", 5, {"jitter": 0}), ("Cricket", 25, {})]:
        _, level = pure(name, 4.0, monkeypatch, rate=rate, group=3, **fixed)
        per_event = level.reshape(4 * rate, -1).max(axis=1)
        assert (per_event > 0.2 * level.max()).tolist() == [
            i // 3 % 2 == 0 for i in range(4 * rate)
        ]


def test_a_linear_classifier_on_mean_log_mels_tells_the_classes_apart():
    def features(labels, rng):
        wave, _ = librosa.effects.trim(make_clip([labels], rng).astype(np.float32))
        mel = librosa.feature.melspectrogram(
            y=wave, sr=44100, n_fft=1024, hop_length=1000, n_mels=64
        )
        return librosa.power_to_db(mel, ref=np.max).mean(axis=1)

    names = CLASSES * 14
    clips = zip(names, np.random.default_rng(0).spawn(len(names)), strict=True)
    x, y = np.array([features(*clip) for clip in clips]), np.array(names)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    accuracy = model.fit(x[:120], y[:120]).score(x[120:], y[120:])
    assert accuracy > 0.8  # chance: 0.08


# --- whole and reproducible -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in [("one", 1), ("again", 1), ("two", 2)]:
        make_demo_dataset(tmp_path / name, seed=seed, **TINY)
    assert contents(tmp_path / "one") == contents(tmp_path / "again")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert not set(one.values()) & set(two.values())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    write, written = sf.write, []

    def failing(path, *args, **kwargs):
        if len(written) == 3:
            raise OSError("no space left on device")
        written.append(path)
        write(path, *args, **kwargs)

    monkeypatch.setattr(demo.sf, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        make_demo_dataset(tmp_path / "input", **TINY)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


def test_nothing_has_the_final_name_before_all_is_written(tmp_path, monkeypatch):
    root, write = tmp_path / "input", sf.write

    def watching(path, *args, **kwargs):
        assert not root.exists()
        write(path, *args, **kwargs)

    monkeypatch.setattr(demo.sf, "write", watching)
    make_demo_dataset(root, **TINY)
    assert list(tmp_path.iterdir()) == [root]


def test_what_a_killed_run_left_does_not_hinder_or_enter_the_dataset(tmp_path):
    stale = tmp_path / "input.part" / "audio_train" / "00000000.wav"
    stale.parent.mkdir(parents=True)
    stale.touch()
    make_demo_dataset(tmp_path / "input", **TINY)
    assert len(list((tmp_path / "input" / "audio_train").iterdir())) == 4


@pytest.mark.parametrize("files", [{}, {"mine.txt": b"mine"}])
def test_an_existing_folder_is_refused_and_left_alone(tmp_path, files):
    root = tmp_path / "input"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(root))):
        make_demo_dataset(root, **TINY)
    assert {path.name: path.read_bytes() for path in root.iterdir()} == files
    assert list(tmp_path.iterdir()) == [root]
