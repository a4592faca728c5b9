"""Tags from the command line and from Python are the ensemble's scores; faults cost one file."""

import dataclasses
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import keras
import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

import config
import messages
from fast import precision
from messages import InputError, MissingResult
from solution.scoring import Scorer
from storage import size_and_checksum
from tag import Tagger
from trained import ensemble
from trained.tagged import Tagged, as_text, write_csv, write_labels

tag = importlib.import_module("tag")

RATE = 44100
# Half as wide numbers round differently in batches of other sizes.
CLOSE = {"atol": 1e-4 if precision.resolve("auto") == "float32" else 1e-2}


@pytest.fixture(scope="module")
def root(finished_run):
    return finished_run[0]


@pytest.fixture(scope="module")
def tagger(root):
    return Tagger(root / "out")


@pytest.fixture
def run_tag(root, tagger, monkeypatch, capsys, request):
    """Call tag.py with arguments: exit status, what it printed, and its errors."""
    if "of_each_file" not in request.node.name:  # one test makes what all others share
        monkeypatch.setattr(
            "trained.tagger.Tagger",
            lambda folder, *chosen: Tagger(folder, *chosen) if any(chosen) else tagger,
        )

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(
            sys, "argv", ["tag.py", *map(str, arguments), "--output", f"{root}/out"]
        )
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        status = tag.main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def clip(root, number):
    return root / "input" / "audio_test" / f"test{number:02d}.wav"


def waveform(root, number):
    return sf.read(clip(root, number), dtype="float32")[0]


def scores_of(tagged):
    """By tag, of what --json says of a clip or window."""
    return {tag: values["score"] for tag, values in tagged["tags"].items()}


def stub(thresholds):
    """A tagger without networks, of classes A, B ..., whose scores are probabilities."""
    made = object.__new__(Tagger)
    made.classes = list("ABCDEFG"[: len(thresholds)])
    made.calibration = SimpleNamespace(
        probabilities=np.asarray, present=lambda probabilities: probabilities >= thresholds
    )
    return made


def table(path):
    return pd.read_csv(path, index_col="fname")


class TestTagger:
    def test_scores_are_those_of_the_submission(self, tagger, root):
        submission = table(root / "out" / "submission.csv").to_numpy()
        assert np.ptp(submission, axis=0).max() > 1e-3
        waveforms = [waveform(root, number) for number in (0, 1, 4, 5, 6, 7)]
        np.testing.assert_allclose(
            tagger.scores(waveforms, RATE), submission[[0, 1, 4, 5, 6, 7]], **CLOSE
        )

    def test_one_experiment_or_fold_gives_its_own_scores(self, root):
        one = Tagger(root / "out", experiments=["max3exam"])
        expected = table(root / "out" / "predictions" / "max3exam" / "test.csv").to_numpy()[0]
        np.testing.assert_allclose(one.scores([waveform(root, 0)], RATE)[0], expected, **CLOSE)
        one = Tagger(root / "out", experiments=["v1mix"], folds=[1])
        expected = table(root / "out" / "models" / "v1mix" / "fold1.test.csv").to_numpy()[0]
        np.testing.assert_allclose(one.scores([waveform(root, 0)], RATE)[0], expected, **CLOSE)

    def test_an_ensemble_of_one_is_stacked_too(self, finished_run, run_stage, tmp_path):
        folder, _, arguments, _ = finished_run
        shutil.copytree(folder / "out", tmp_path / "out")
        options = ("--output", tmp_path / "out", "--experiments", "max3exam")
        run_stage("ensemble", *arguments, *options)
        submission = table(tmp_path / "out" / "submission.csv").to_numpy()
        alone = table(tmp_path / "out" / "predictions" / "max3exam" / "test.csv").to_numpy()
        assert np.abs(submission[0] - alone[0]).max() > 0.1
        one = Tagger(tmp_path / "out")
        np.testing.assert_allclose(
            one.scores([waveform(folder, 0)], RATE)[0], submission[0], **CLOSE
        )
        one = Tagger(tmp_path / "out", experiments="max3exam")
        np.testing.assert_allclose(one.scores([waveform(folder, 0)], RATE)[0], alone[0], **CLOSE)

    def test_tags_are_all_classes_the_best_first(self, tagger, root):
        tags = tagger.tag(waveform(root, 0), RATE)
        assert isinstance(tags, dict)
        assert set(tags) == set(tagger.classes)
        assert list(tags.values()) == sorted(tags.values(), reverse=True)

    def test_a_batch_gives_what_its_clips_give(self, tagger, root):
        both = [waveform(root, 0), waveform(root, 1)]
        expected = [tagger.tag(one, RATE) for one in both]
        for batch in (both, np.stack([one[:9000] for one in both])):
            if isinstance(batch, np.ndarray):
                expected = [tagger.tag(one, RATE) for one in batch]
            for tags, alone in zip(tagger.tag(batch, RATE), expected, strict=True):
                assert tags == pytest.approx(alone, abs=CLOSE["atol"])

    def test_integers_and_other_rates(self, tagger, root):
        expected = tagger.tag(waveform(root, 0), RATE)
        samples, _ = sf.read(clip(root, 0), dtype="int16")
        for integers in (samples, samples.astype(np.int32) << 16):
            assert tagger.tag(integers, RATE) == pytest.approx(expected, abs=CLOSE["atol"])
        assert tagger.tag(list(waveform(root, 0)), RATE) == expected
        double = librosa.resample(waveform(root, 0), orig_sr=RATE, target_sr=2 * RATE)
        back = librosa.resample(double, orig_sr=2 * RATE, target_sr=RATE)
        expected = tagger.tag(back, RATE)
        right, wrong = tagger.tag(double, 2 * RATE), tagger.tag(double, RATE)
        difference = {name: abs(right[name] - expected[name]) for name in expected}
        by_mistake = {name: abs(wrong[name] - expected[name]) for name in expected}
        assert max(difference.values()) < max(by_mistake.values()) / 5
        assert right == pytest.approx(expected, abs=CLOSE["atol"])
        with pytest.raises(ValueError, match="expected a sample rate in Hz, got 0"):
            tagger.tag(double, 0)

    @pytest.mark.parametrize(
        ("faulty", "message"),
        [
            (np.zeros(0, np.float32), r"of shape \(samples,\), got \(0,\)"),
            (np.zeros((9000, 2), np.float32), "take the mean over the channels"),
            (np.zeros(9000, complex), "expected floats, int16 or int32, got complex128"),
            (np.zeros(9000, np.int64), "expected floats, int16 or int32, got int64"),
            (np.zeros((2, 3, 9000), np.float32), r"of shape \(samples,\), got \(3, 9000\)"),
        ],
    )
    def test_what_is_no_waveform_is_refused(self, tagger, faulty, message):
        with pytest.raises(ValueError, match=message):
            tagger.tag(faulty, RATE)

    def test_channels_are_not_taken_for_clips(self, tagger):
        with pytest.raises(ValueError, match="take the mean over the channels"):
            tagger.probabilities(np.zeros((100, 2), np.float32), RATE)

    def test_calls_from_several_threads_wait_for_one_another(self, tagger, root, monkeypatch):
        waves, order, score = [waveform(root, number) for number in (0, 1, 4)], [], Scorer.score
        expected = [tagger.tag(wave, RATE) for wave in waves]

        def slowly(scorer, inputs):
            order.append(threading.get_ident())
            time.sleep(0.02)
            return score(scorer, inputs)

        monkeypatch.setattr(Scorer, "score", slowly)
        with ThreadPoolExecutor(3) as threads:
            found = [*threads.map(lambda wave: tagger.tag(wave, RATE), waves)]
        assert 1 < len(set(order)) == len([*itertools.groupby(order)])
        for tags, alone in zip(found, expected, strict=True):
            assert tags == pytest.approx(alone, abs=CLOSE["atol"])

    def test_one_waveform_is_not_taken_for_clips(self, tagger):
        with pytest.raises(ValueError, match="expected a list of waveforms, got one"):
            tagger.probabilities(np.zeros(9000, np.float32), RATE)

    def test_many_clips_are_scored_as_each(self, tagger, root, monkeypatch):
        monkeypatch.setattr("trained.tagger.CLIPS_IN_MEMORY", 4)
        monkeypatch.setattr("trained.tagger.CLIPS_AT_ONCE", 3)
        waveforms = [waveform(root, number) for number in (0, 1, 4, 5, 6, 7)]
        expected = np.concatenate([tagger.scores([one], RATE) for one in waveforms])
        np.testing.assert_allclose(tagger.scores(waveforms, RATE), expected, **CLOSE)
        assert tagger.scores([], RATE).shape == (0, len(tagger.classes))

    def test_integers_that_became_floats_are_warned_of(self, tagger, root):
        samples, _ = sf.read(clip(root, 0), dtype="int16")
        with pytest.warns(UserWarning, match="give int16 as int16, or divide it by 32768"):
            tagger.tag(samples.astype(np.float32), RATE)

    def test_one_of_another_process_is_refused(self, tagger, root, monkeypatch):
        """Forked, it would wait for TensorFlow's threads, which are not there."""
        monkeypatch.setattr(os, "getpid", lambda: 0)
        with pytest.raises(RuntimeError, match="make one in each"):
            tagger.tag(waveform(root, 0), RATE)

    def test_tensors_of_other_libraries_are_waveforms_too(self, tagger, root):
        tensor = keras.ops.convert_to_tensor(waveform(root, 0))
        assert tagger.tag(tensor, RATE) == tagger.tag(waveform(root, 0), RATE)

    def test_all_that_it_needs_is_in_memory(self, root, tmp_path):
        shutil.copytree(root / "out", tmp_path / "out")
        one = Tagger(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        assert one.scores([waveform(root, 0)], RATE).shape == (1, len(one.classes))

    @pytest.mark.filterwarnings("error")
    def test_samples_are_limited_as_those_of_files_are(self, tagger, root):
        faulty, mended = waveform(root, 0), waveform(root, 0)
        faulty[[1000, 2000]], mended[[1000, 2000]] = [np.nan, 1e9], [0, 1e4]
        scores = tagger.scores([faulty, mended], RATE)
        np.testing.assert_array_equal(scores[0], scores[1])
        assert np.isfinite(tagger.scores([np.full(9000, np.nan, np.float32)], RATE)).all()
        beyond = mended.astype(np.float64)
        beyond[2000] = 1e300  # more than float32 holds
        np.testing.assert_array_equal(tagger.scores([beyond], RATE)[0], scores[1])

    def test_probabilities_are_those_of_its_own_kind_of_scores(self, tagger, root):
        calibrations = ensemble.read(root / "out").calibrations
        one = Tagger(root / "out", experiments="v1mix", folds=0)
        for each, kind in ((tagger, "ensemble"), (one, "v1mix")):
            waveforms = [waveform(root, 0), waveform(root, 1)]
            expected = calibrations[kind].probabilities(each.scores(waveforms, RATE))
            np.testing.assert_allclose(each.probabilities(waveforms, RATE), expected, **CLOSE)
            np.testing.assert_array_equal(each.thresholds, calibrations[kind].thresholds)
        assert np.abs(calibrations["v1mix"].offsets - calibrations["ensemble"].offsets).max() > 0.01

    def test_windows_with_a_tag_are_joined_where_they_touch(self):
        windows = [
            (0.0, 5.0, [0.9, 0.1, 0.5]),
            (2.5, 7.5, [0.8, 0.7, 0.4]),
            (5.0, 10.0, [0.1, 0.1, 0.5]),  # touches the first, but C was not in the second
            (20.0, 25.0, [0.6, 0.1, 0.5]),  # follows, but does not touch
        ]
        assert stub([0.5, 0.6, 0.5]).merged(windows) == [
            (0.0, 5.0, "C", 0.5),
            (0.0, 7.5, "A", 0.9),
            (2.5, 7.5, "B", 0.7),
            (5.0, 10.0, "C", 0.5),
            (20.0, 25.0, "A", 0.6),
            (20.0, 25.0, "C", 0.5),
        ]
        assert stub([0.5]).merged([]) == []

    def test_segments_are_those_of_the_timeline(self, tagger, root):
        joined = np.concatenate([waveform(root, 0), waveform(root, 1), waveform(root, 4)])
        windows = tagger.timeline(joined, RATE, 0.25, 0.125)
        segments = tagger.segments(joined, RATE, 0.25, 0.125)
        assert segments == tagger.merged(windows)
        probabilities = tagger.calibration.probabilities([scores for *_, scores in windows])
        for (start, end, _), has_tag in zip(
            windows, tagger.calibration.present(probabilities), strict=True
        ):
            inside = {one.tag for one in segments if one.start <= start and end <= one.end}
            assert inside >= {tagger.classes[i] for i in np.flatnonzero(has_tag)}

    @pytest.mark.parametrize(
        ("seconds", "ends"),
        [(2.0, [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]), (0.6, [0.5, 0.6]), (0.3, [0.3])],
    )
    def test_windows_cover_the_clip(self, tagger, seconds, ends):
        noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
        windows = tagger.timeline(noise, RATE, window=0.5, hop=0.25)
        assert [end for _, end, _ in windows] == pytest.approx(ends, abs=1e-4)
        assert windows[0][0] == 0
        for start, end, scores in windows:
            part = noise[round(start * RATE) : round(end * RATE)]
            np.testing.assert_allclose(scores, tagger.scores([part], RATE)[0], **CLOSE)

    def test_what_the_ensemble_does_not_have_is_named(self, root, tmp_path):
        with pytest.raises(Exception, match="no experiment se; it has v1mix, max3exam"):
            Tagger(root / "out", experiments=["se"])
        with pytest.raises(Exception, match="no fold 7; it has 0, 1"):
            Tagger(root / "out", folds=range(7, 8))
        with pytest.raises(Exception, match="no fold was named: None stands for all"):
            Tagger(root / "out", folds=[])
        with pytest.raises(Exception, match=r"no trained ensemble in .*stage ensemble writes that"):
            Tagger(tmp_path)
        (tmp_path / "trained.json").write_text('{"classes": 3')
        with pytest.raises(Exception, match="damaged, or of another version"):
            Tagger(tmp_path)

    def test_weights_of_another_training_are_refused(self, root):
        weights = root / "out" / "models" / "v1mix" / "fold0.weights.h5"
        content = weights.read_bytes()
        try:
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(Exception, match="fold0.weights.h5 is not the file"):
                Tagger(root / "out")
        finally:
            weights.write_bytes(content)

    def test_stackers_of_another_version_are_refused(self, root, tmp_path):
        old = ensemble.read(root / "out")
        layers = [keras.Input((5,)), keras.layers.Dense(3, name="models")]
        (tmp_path / "stacker").mkdir()
        keras.Sequential(layers).save_weights(tmp_path / "stacker" / "fold0.weights.h5")
        known = size_and_checksum(tmp_path / "stacker" / "fold0.weights.h5")
        file = ensemble.File("stacker/fold0.weights.h5", *known)
        other = dataclasses.replace(old, folder=tmp_path, stackers=[file])
        scores = {config.name: np.zeros((1, len(other.classes))) for config in other.configs}
        with pytest.raises(MissingResult, match="another version of this project: run ensemble"):
            other.stack(scores)

    def test_networks_of_another_version_are_refused(self, root, tmp_path):
        old = ensemble.read(root / "out")
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]).save_weights(
            tmp_path / "fold0.weights.h5"
        )
        known = size_and_checksum(tmp_path / "fold0.weights.h5")
        networks = {"v1mix": [ensemble.File("fold0.weights.h5", *known)]}
        other = dataclasses.replace(old, folder=tmp_path, folds=[0], networks=networks)
        scorer = Scorer(old.configs[0], len(old.classes))
        with pytest.raises(MissingResult, match="another version of this project: run train"):
            other.load(scorer, 0)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_of_keras_give_the_same_tags(root, tagger, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, tag.__file__, clip(root, 0), "--output", root / "out", "--json"],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        check=True,
    )
    (tagged,) = json.loads(done.stdout)
    expected = tagger.tag(waveform(root, 0), RATE)
    assert scores_of(tagged) == pytest.approx(expected, abs=2 * CLOSE["atol"])


def test_modules_of_the_same_name_are_told_apart(root, tmp_path):
    """A script beside a config.py of its own gets that one, before and after our Tagger."""
    for name in ("config", "messages", "solution"):
        (tmp_path / f"{name}.py").write_text("MINE = True")
    (tmp_path / "script.py").write_text(f"""
import sys
sys.path.append({str(Path(config.__file__).parent)!r})
import config
import messages
from tag import Tagger
import messages, solution
assert config.MINE and messages.MINE and solution.MINE
tagger = Tagger({str(root / "out")!r})
import config, tag
assert config.MINE and tag.Tagger is Tagger
print(len(tagger.tag([0.1] * 50000, 44100)) == len(tagger.classes))
""")
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


class TestCommandLine:
    def test_prints_the_best_tags_of_each_file(self, run_tag, root, tagger):
        status, out, err = run_tag(clip(root, 0), clip(root, 1), "--top", 2)
        assert status == 0
        assert re.match(r"ready in [\d.]+ s: [\d.]+ importing Keras", err)
        blocks = re.split(r"\n(?=/)", out.strip())
        assert len(blocks) == 2
        for number, block in enumerate(blocks):
            head, *lines = block.splitlines()
            wave = waveform(root, number)
            assert head == f"{clip(root, number)}  ({len(wave) / RATE:.1f} s)"
            probabilities = tagger.probabilities([wave], RATE)[0]
            present = dict(
                zip(tagger.classes, tagger.calibration.present(probabilities), strict=True)
            )
            expected = tagger.ranked(probabilities, 2)
            said = [re.fullmatch(r"  (\S+) +(\d+) %(?:  (present))?", line) for line in lines]
            assert [one[1] for one in said] == list(expected)
            assert [bool(one[3]) for one in said] == [present[tag] for tag in expected]
            assert [int(one[2]) / 100 for one in said] == pytest.approx(
                list(expected.values()), abs=0.01 + CLOSE["atol"]
            )

    def test_one_network_can_be_asked_alone(self, run_tag, root):
        _, out, _ = run_tag(clip(root, 0), "--experiments", "v1mix", "--folds", "0", "--json")
        expected = table(root / "out" / "models" / "v1mix" / "fold0.test.csv").iloc[0]
        for tag_, values in json.loads(out)[0]["tags"].items():
            assert values["score"] == pytest.approx(expected[tag_], abs=1e-4 + CLOSE["atol"])

    def test_unreadable_files_are_named_and_the_rest_goes_on(self, run_tag, root, tmp_path):
        status, out, err = run_tag(
            clip(root, 2), tmp_path / "none.wav", clip(root, 3), clip(root, 0), "--json"
        )
        assert status == 1
        assert re.search(r"error: .*test02.wav: cannot be decoded", err)
        assert "none.wav: cannot be opened (No such file or directory)" in err
        said = json.loads(out)
        assert [sorted(one)[0] for one in said] == ["error", "error", "error", "file"]
        assert said[3]["file"] == str(clip(root, 0))
        assert set(said[3]["tags"]) == {"Bark", "Meow", "Tick-tock"}
        assert set(said[3]["tags"]["Bark"]) == {"probability", "present", "score"}

    def test_a_folder_stands_for_its_audio_files(self, run_tag, root, tmp_path):
        (tmp_path / "deep").mkdir()
        for name, format in (("b.WAV", "WAV"), ("deep/a", "FLAC")):
            sf.write(tmp_path / name, waveform(root, 0), RATE, format=format)
        (tmp_path / "._b.WAV").write_text("hidden")
        status, out, err = run_tag(tmp_path, "--json")
        assert (status, "error" in err) == (0, False)
        assert [Path(one["file"]).name for one in json.loads(out)] == ["b.WAV", "a"]
        (tmp_path / "deep" / "notes.txt").write_text("text")
        status, out, err = run_tag(tmp_path)
        assert status == 1
        assert re.search("error: .*deep.notes.txt: is no audio", err)
        assert len(re.findall(r"\(\d\.\d s\)", out)) == 2
        (tmp_path / "deep" / "notes.txt").unlink()
        (tmp_path / "empty").mkdir()
        status, out, err = run_tag(tmp_path / "empty", tmp_path / "deep", "--json")
        assert status == 1
        assert "empty: holds no files" in err
        assert [sorted(one)[0] for one in json.loads(out)] == ["error", "file"]

    def test_links_to_folders_are_followed_once(self, run_tag, root, tmp_path):
        (tmp_path / "sounds").mkdir()
        (tmp_path / "sounds" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "sounds" / "up").symlink_to(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(clip(root, 0), tmp_path / "elsewhere" / "a.wav")
        status, out, _ = run_tag(tmp_path / "sounds", "--json")
        assert status == 0
        (tagged,) = json.loads(out)
        assert tagged["file"] == str(tmp_path / "sounds" / "link" / "a.wav")

    @pytest.mark.parametrize("streamed", [False, True])
    def test_standard_input(self, run_tag, root, streamed):
        content = bytearray(clip(root, 0).read_bytes())
        if streamed:  # as programs write it that do not know the length yet
            content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
        status, out, _ = run_tag("-", "--json", stdin=bytes(content))
        assert status == 0
        (tagged,) = json.loads(out)
        assert tagged["file"] == "-"
        assert tagged["seconds"] == pytest.approx(len(waveform(root, 0)) / RATE, abs=1e-3)

    def test_long_files_get_a_timeline(self, run_tag, root, tmp_path, tagger):
        joined = np.concatenate([waveform(root, 0), waveform(root, 1), waveform(root, 4)])
        sf.write(tmp_path / "long.wav", joined, RATE)
        options = ("--window", "0.25", "--hop", "0.125")
        _, out, _ = run_tag(tmp_path / "long.wav", *options)
        lines = re.findall(r"^  \d:\d\d\.\d - \d:\d\d\.\d  \S+ [<> ]*\d+ %$", out, re.M)
        assert out.count(f"  all of it, in windows of 0.25 s:\n{lines[0]}\n") == 1
        _, out, _ = run_tag(
            tmp_path / "long.wav", clip(root, 0), *options, "--json", "--csv", tmp_path / "o.csv"
        )
        long, short = json.loads(out)
        windows, segments = long["windows"], long["segments"]
        assert len(windows) > 5
        assert len(segments) == len(lines) > 0
        assert "segments" not in short
        assert windows[-1]["end"] == pytest.approx(len(joined) / RATE, abs=1e-3)
        scores = table(tmp_path / "o.csv")
        kinds = [
            f"{name}{kind}" for kind in ("", " probability", " present") for name in tagger.classes
        ]
        assert list(scores.columns) == ["start", "end", *kinds]
        of_long = scores.loc[[str(tmp_path / "long.wav")]]
        assert len(of_long) == 1 + len(windows)
        assert of_long.iloc[0, :2].tolist() == [0, pytest.approx(len(joined) / RATE, abs=1e-3)]
        joined, _ = sf.read(tmp_path / "long.wav", dtype="float32")
        expected = [tagger.scores([joined], RATE)[0]]
        expected += [scores for _, _, scores in tagger.timeline(joined, RATE, 0.25, 0.125)]
        np.testing.assert_allclose(of_long[tagger.classes].to_numpy(), expected, **CLOSE)
        for window, scores in zip(windows, expected[1:], strict=True):
            assert scores_of(window) == pytest.approx(
                tagger.ranked(scores), abs=1e-4 + CLOSE["atol"]
            )
        probabilities = tagger.calibration.probabilities(of_long[tagger.classes].to_numpy())
        of_classes = of_long[[f"{name} probability" for name in tagger.classes]]
        np.testing.assert_allclose(of_classes, probabilities, atol=1e-5)
        of_classes = of_long[[f"{name} present" for name in tagger.classes]]
        np.testing.assert_array_equal(of_classes, tagger.calibration.present(probabilities))
        for segment in segments:
            first = next(one for one in windows if one["start"] == segment["start"])
            assert first["tags"][segment["tag"]]["present"]

    def test_labels_are_what_audacity_imports(self, run_tag, root, tmp_path):
        """Start, end and label between tabs: of one clip a file, of several a folder."""
        run_tag(clip(root, 0), "--labels", tmp_path / "one.txt", "--json")
        _, out, _ = run_tag(
            clip(root, 0), clip(root, 2), clip(root, 1), "--json", "--labels", tmp_path
        )
        tagged = [one for one in json.loads(out) if "error" not in one]
        files = [tmp_path / f"{Path(one['file']).name}.txt" for one in tagged]
        assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "one.txt"])
        assert (tmp_path / "one.txt").read_text() == files[0].read_text()
        for one, file in zip(tagged, files, strict=True):
            lines = [line.split("\t") for line in file.read_text().splitlines()]
            present = [tag for tag, values in one["tags"].items() if values["present"]]
            assert sorted(label for *_, label in lines) == sorted(present)
            for start, end, _ in lines:
                assert (float(start), float(end)) == (0, pytest.approx(one["seconds"], abs=1e-3))

    def test_labels_overwrite_no_clip_and_no_other_clips_labels(self, run_tag, root, tmp_path):
        (tmp_path / "other").mkdir()
        for folder in (tmp_path, tmp_path / "other"):
            shutil.copy(clip(root, 0), folder / "a.wav")
        both = tmp_path / "a.wav", tmp_path / "other" / "a.wav"
        with pytest.raises(InputError, match="would overwrite a clip"):
            run_tag(both[0], "--labels", both[0])
        with pytest.raises(InputError, match="holds one clip, here are 2: name a folder"):
            run_tag(*both, "--labels", tmp_path / "a.txt")
        with pytest.raises(InputError, match=r"a\.wav\.txt would be that of two clips"):
            run_tag(*both, "--labels", tmp_path)
        with pytest.raises(InputError, match="--labels .* cannot be written"):
            run_tag(both[0], "--labels", tmp_path / "none" / "a.txt")
        with pytest.raises(InputError, match="new/: there is no such folder: make it first"):
            run_tag(both[0], "--labels", f"{tmp_path}/new/")
        with pytest.raises(InputError, match="--csv and --labels would both write .*/a.txt"):
            run_tag(both[0], "--labels", tmp_path / "a.txt", "--csv", tmp_path / "other/../a.txt")
        assert not list(tmp_path.rglob("*.txt"))
        assert not (tmp_path / "new").exists()

    def test_labels_of_one_clip_are_written_beside_what_is_no_audio(self, run_tag, root, tmp_path):
        shutil.copy(clip(root, 0), tmp_path / "a.wav")
        (tmp_path / "notes.md").write_text("no audio")
        (tmp_path / "a.txt").write_text("labels of before")
        status, _, err = run_tag(tmp_path, "--labels", tmp_path / "a.txt")
        assert (status, "notes.md: is no audio" in err) == (1, True)
        assert (tmp_path / "a.txt").read_text() != "labels of before"

    def test_what_an_earlier_call_wrote_among_the_clips_is_no_fault(self, run_tag, root, tmp_path):
        shutil.copy(clip(root, 0), tmp_path / "a.wav")
        for _ in range(2):
            status, _, err = run_tag(tmp_path, "--labels", tmp_path, "--csv", tmp_path / "tags.csv")
            assert (status, "is no audio" in err) == (0, False)
        (tmp_path / "a.wav").unlink()
        (tmp_path / "a.wav.txt").unlink()
        status, out, _ = run_tag(tmp_path, "--csv", tmp_path / "tags.csv", "--json")
        assert (status, json.loads(out)) == (0, [])

    def test_line_breaks_and_tabs_in_tags_stay_out_of_labels(self, tmp_path):
        write_labels(tmp_path / "a.txt", [(0.0, 1.25, "a\tb\n c", 0.9), (1.25, 2, "für", 0.8)])
        text = (tmp_path / "a.txt").read_text(encoding="utf-8")
        assert text == "0.000000\t1.250000\ta b c\n1.250000\t2.000000\tfür\n"

    def test_classes_called_as_columns_keep_apart(self, tmp_path):
        """Ordinary ones have the column of their name, as they always had."""
        classes = [
            "start",
            "fname",
            "Bark",
            "Bark present",
            "end",
            "start score",
            "end probability",
        ]
        tagger = stub([0.5] * 7)
        tagger.classes = classes
        scores = np.linspace(0.2, 0.8, 7).astype(np.float32)
        write_csv(tmp_path / "o.csv", tagger, [Tagged("a.wav", "", 2.0, scores)])
        written = pd.read_csv(tmp_path / "o.csv", header=None)
        header, row = written.to_numpy()
        assert len(set(header)) == len(header) == 3 + 3 * 7
        assert header[:10].tolist() == [
            *("fname", "start", "end", "start score score", "fname score", "Bark"),
            *("Bark present score", "end score", "start score", "end probability score"),
        ]
        assert row[:3].tolist() == ["a.wav", "0.0", "2.0"]
        np.testing.assert_allclose(row[3:10].astype(float), scores, atol=1e-6)
        assert header[-7:].tolist() == [f"{name} present" for name in classes]
        assert row[-7:].tolist() == [str(score >= 0.5) for score in scores]

    def test_percentages_are_never_certain(self):
        said = [messages.percent(value) for value in (0, 0.0099, 0.01, 0.974, 0.99, 0.9999, 1)]
        assert said == ["< 1 %", "< 1 %", "1 %", "97 %", "99 %", "> 99 %", "> 99 %"]

    def test_the_table_overwrites_no_clip_and_follows_links(
        self, run_tag, root, tmp_path, monkeypatch
    ):
        shutil.copy(clip(root, 0), tmp_path / "a.wav")
        shutil.copy(clip(root, 0), tmp_path / "a clip")
        monkeypatch.chdir(tmp_path)
        for name in ("a.wav", "a clip", "./a clip", "../" + tmp_path.name + "/a clip"):
            for named in ("a clip", "./a clip", tmp_path / "a clip"):
                with pytest.raises(InputError, match="would overwrite a clip"):
                    run_tag(named, "--csv", name)
        for name in (".", "none/b.csv"):
            with pytest.raises(InputError, match="cannot be written"):
                run_tag(tmp_path / "a.wav", "--csv", tmp_path / name)
        (tmp_path / "link.csv").symlink_to("target.csv")
        (tmp_path / "target.csv").touch()
        run_tag(tmp_path / "a.wav", "--csv", tmp_path / "link.csv")
        assert len(table(tmp_path / "target.csv")) == 1
        assert (tmp_path / "link.csv").is_symlink()

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_the_table_is_whole_where_nobody_reads_what_is_printed(self, root, tmp_path, options):
        read_end, write_end = os.pipe()
        os.close(read_end)
        clips = [clip(root, number) for number in (0, 1, 4)]
        command = [sys.executable, tag.__file__, *clips, "--csv", tmp_path / "o.csv", *options]
        done = subprocess.run(
            [*command, "--output", root / "out"], stdout=write_end, stderr=subprocess.PIPE
        )
        os.close(write_end)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(b"\n") == 1  # how long it took to start
        assert table(tmp_path / "o.csv").index.tolist() == [str(one) for one in clips]

    @pytest.mark.parametrize(
        ("option", "value", "allowed"),
        [
            *(
                ("--top", value, "a whole number of at least 1")
                for value in ("0", "-1", "x", "1.5")
            ),
            *(("--window", value, "0.01 to 1,000,000 seconds") for value in ("0", "1e-9", "nan")),
        ],
    )
    def test_numbers_that_make_no_sense_are_refused(self, run_tag, option, value, allowed, capsys):
        with pytest.raises(SystemExit):
            run_tag("a.wav", option, value)
        said = capsys.readouterr().err
        assert f"argument {option}: must be {allowed}, not '{value}'" in said

    def test_windows_leave_nothing_out(self, run_tag, root, tmp_path):
        with pytest.raises(InputError, match="--hop 6 is longer than --window 5: what lies"):
            run_tag(clip(root, 0), "--hop", "6")
        joined = np.concatenate([waveform(root, number) for number in (0, 1, 4)])
        sf.write(tmp_path / "long.wav", joined, RATE)
        _, out, _ = run_tag(tmp_path / "long.wav", "--window", "0.5", "--json")
        starts = [window["start"] for window in json.loads(out)[0]["windows"]]
        assert starts[:3] == [0, 0.25, 0.5]

    def test_a_timeline_without_tags_says_so(self):
        windows = [(0.0, 5.0, [0.1]), (2.5, 7.5, [0.2])]
        said = as_text(stub([0.5]), Tagged("a.wav", "", 12.0, np.array([0.9]), windows), top=1)
        heading = "  all of it, in windows of 5 s: no tag is present"
        assert said.splitlines() == ["a.wav  (12.0 s)", "  A    90 %  present", heading]

    def test_mistakes_are_answered_at_once(self):
        """Without TensorFlow, which takes seconds to import."""
        program = (
            "import sys, runpy; sys.argv = ['tag.py', 'a.wav', '--hop', '0']\n"
            "try: runpy.run_path(sys.path[0] + '/tag.py', run_name='__main__')\n"
            "except SystemExit as stop: print(stop.code, 'keras' in sys.modules)"
        )
        code = Path(config.__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(code)!r})\n{program}"],
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ["2", "False"], done.stderr
        assert "argument --hop: must be 0.01 to 1,000,000 seconds, not '0'" in done.stderr
