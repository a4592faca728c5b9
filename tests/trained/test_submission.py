"""A submission in the time there is: before the first network, after each, whatever fails."""

import re
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest

from clips import dataset, prepare
from config import Config
from fast import precision
from messages import InputError, PipelineError
from solution.scoring import Scorer
from trained import ensemble as trained
from trained import submission
from trained.ensemble import Ensemble

NETWORKS = [("v1mix", 0), ("max3exam", 0), ("v1mix", 1), ("max3exam", 1)]  # heaviest first


@pytest.fixture(scope="module")
def out(finished_run):
    return finished_run[0] / "out"


@pytest.fixture(scope="module")
def competition(finished_run):
    return finished_run[0] / "input"


def scores_in(path):
    return pd.read_csv(path, index_col="fname").to_numpy()


class TestTime:
    @pytest.fixture
    def slow(self, monkeypatch):
        """A clock that goes on with every network's clips, and not else.

        `slow.pace` is how many seconds a network takes for all eight, `slow.pace_of` those of
        single networks, by name; `slow.done` are those that were at work.
        """

        class Slow:
            now, pace = 1000.0, 10.0

            def monotonic(self):
                return self.now

        slow, load, score = Slow(), Ensemble.load, Scorer.score
        slow.done, slow.pace_of = [], {}

        def noted(ensemble, scorer, fold):
            slow.done.append(f"{scorer.config.name} fold {fold}")
            load(ensemble, scorer, fold)

        def slowly(scorer, inputs):
            slow.now += slow.pace_of.get(slow.done[-1], slow.pace) * len(inputs["length"]) / 8
            return score(scorer, inputs)

        monkeypatch.setattr(submission, "time", slow)
        monkeypatch.setattr(Ensemble, "load", noted)
        monkeypatch.setattr(Scorer, "score", slowly)
        return slow

    @pytest.fixture
    def make(self, out, competition, slow, tmp_path, capsys):
        """Call `submission.make` with so many seconds; gives what it printed, and the scores."""

        def make(seconds, **options):
            minutes, path = seconds / 60 / (1 - submission.RESERVE), tmp_path / "submission.csv"
            submission.make(out, competition, path, minutes, **options)
            scores = scores_in(path)
            assert scores.shape == (8, 3)
            assert np.isfinite(scores).all()
            return capsys.readouterr().out, scores

        return make

    @pytest.mark.parametrize(
        ("seconds", "done", "left_out"),
        [
            (45, [0, 1, 2, 3], []),
            (35, [0, 1, 2], [3]),
            (25, [0, 2], [1, 3]),
            (15, [0], [1, 2, 3]),
        ],
    )
    def test_the_lightest_models_folds_go_first(self, make, slow, seconds, done, left_out):
        printed, _ = make(seconds)
        names = ["{} fold {}".format(*network) for network in NETWORKS]
        assert slow.done == [names[i] for i in done]
        said = re.findall("left out, as the time does not suffice: (.*)", printed)
        assert said == [", ".join(names[i] for i in left_out)] * bool(left_out)
        assert "stacked v1mix" in printed
        assert slow.now - 1000 <= seconds

    def test_what_seemed_to_be_too_much_works_where_there_is_time_after_all(self, make, slow):
        slow.pace_of["v1mix fold 0"] = 40.0
        printed, _ = make(95)
        assert slow.done == ["{} fold {}".format(*NETWORKS[i]) for i in (0, 2, 1, 3)]
        assert "left out" not in printed

    def test_the_clock_is_looked_at_after_each_that_fails(self, make, slow, monkeypatch):
        score = Scorer.score

        def failing(scorer, inputs):
            return score(scorer, inputs) * (np.nan if slow.done == ["v1mix fold 0"] else 1)

        monkeypatch.setattr(Scorer, "score", failing)
        printed, _ = make(25)
        fault = "ValueError('it gives scores that are no numbers')"
        assert f"v1mix fold 0 is left out: {fault}" in printed
        assert "stacked v1mix (1 of 2 folds)" in printed
        assert slow.done == ["v1mix fold 0", "v1mix fold 1"]

    def test_there_is_a_submission_before_and_after_the_first_network(self, make):
        printed, _ = make(15)
        assert re.findall(r"^submission.csv: (.*?) \(", printed, re.M) == [
            *("equal scores", "mean of v1mix", "stacked v1mix")
        ]

    def test_a_network_that_gets_late_does_not_count(self, make, slow, monkeypatch):
        monkeypatch.setattr(submission, "CLIPS_AT_ONCE", 2)
        slow.pace, slow.pace_of["v1mix fold 0"] = 40.0, 10.0
        printed, _ = make(25)
        assert "v1mix fold 1 is left out: TimeoutError('2 of 4 batches in time')" in printed
        assert "not suffice: max3exam fold 0, max3exam fold 1" in printed
        assert "stacked v1mix (1 of 2 folds)" in printed

    def test_the_budget_begins_with_the_script(self, make, slow):
        printed, _ = make(45, started=slow.now - 30)
        assert "stacked v1mix (1 of 2 folds)" in printed

    def test_clips_are_read_for_half_of_the_time(self, make, slow, monkeypatch):
        network_inputs = submission.network_inputs

        def slowly(*arguments):
            slow.now += 10
            return network_inputs(*arguments)

        monkeypatch.setattr(submission, "network_inputs", slowly)
        monkeypatch.setattr(submission, "CLIPS_AT_ONCE", 2)
        printed, scores = make(50)
        assert "test06.wav was not reached in time; test07.wav was" in printed
        assert (scores[6] == scores[7]).all()
        assert "stacked v1mix (1 of 2 folds)" in printed

    def test_no_time_at_all(self, make, slow, tmp_path, capsys):
        with pytest.raises(PipelineError, match=r"equal scores: no network has worked \(see above"):
            make(-1)
        printed = capsys.readouterr().out
        assert "warning: 8 clips count as silence: test00.wav was not reached in time" in printed
        assert slow.done == []
        np.testing.assert_allclose(scores_in(tmp_path / "submission.csv"), 1 / 3)


def test_the_average_over_the_folds_grows_fold_by_fold(tmp_path, monkeypatch):
    config, scores = Config("v1mix"), np.random.default_rng(0).random((3, 4, 2))
    ensemble = Ensemble(tmp_path, ["a", "b"], [config], [0, 1, 2], {}, [], {})
    averages = submission.Averages(ensemble, [], deadline=np.inf)
    monkeypatch.setattr(averages, "_score", lambda _, fold: scores[fold])
    for n in (1, 2, 3):
        assert averages.score_next()
        np.testing.assert_allclose(averages.scores["v1mix"], scores[:n].mean(axis=0))
    assert not averages.score_next()


def test_a_process_that_dies_costs_a_few_clips(out, competition, tmp_path, capsys, monkeypatch):
    prepare_all, rounds = prepare.prepare_all, []

    def dying(files, settings):
        rounds.append(len(files))
        for number, clip in enumerate(prepare_all(files, settings)):
            if len(rounds) < 3 and number == 2:
                raise RuntimeError("a process was killed")
            yield clip

    monkeypatch.setattr(prepare, "prepare_all", dying)
    submission.make(out, competition, tmp_path / "submission.csv")
    printed = capsys.readouterr().out
    assert rounds == [8, 5, 2]
    assert "test05.wav ended in RuntimeError('a process was killed')" in printed
    assert "stacked v1mix (2 of 2 folds)" in printed


@pytest.mark.parametrize("stacker", [None, b"", b"no weights"])
def test_what_is_damaged_costs_itself_only(out, competition, tmp_path, capsys, stacker):
    ignored = shutil.ignore_patterns("clips")
    ensemble = shutil.copytree(out, tmp_path / "ensemble", ignore=ignored)
    (ensemble / "models" / "v1mix" / "fold0.weights.h5").unlink()
    if stacker is not None:
        (ensemble / "stacker" / "fold1.weights.h5").write_bytes(stacker)
    description = (ensemble / "trained.json").read_text()
    assert '"stack_weight": 2.1' in description
    description = description.replace('"stack_weight": 2.1', '"stack_weight": 17.1')
    (ensemble / "trained.json").write_text(description)
    submission.make(ensemble, competition, tmp_path / "submission.csv")
    printed, there = capsys.readouterr().out, "v1mix (1 of 2 folds), max3exam (2 of 2 folds)"
    assert "warning: v1mix fold 0 is left out: MissingResult(" in printed
    if stacker is None:
        assert f"stacked {there}" in printed
        return
    assert "warning: not stacked, so the mean stays" in printed
    tables = ("models/v1mix/fold1.test.csv", "predictions/max3exam/test.csv")
    scores = [scores_in(out / table) for table in tables]
    # Each keeps its own weight.
    mean = np.average(scores, axis=0, weights=[17.1, 1.9])
    assert np.abs(mean - np.average(scores, axis=0, weights=[1.9, 17.1])).max() > 5e-3
    atol = 1e-4 if precision.resolve("auto") == "float32" else 1e-2
    np.testing.assert_allclose(scores_in(tmp_path / "submission.csv"), mean, atol=atol)


def test_a_missing_experiment_counts_as_the_average_of_the_others(out):
    ensemble, scores = trained.read(out), np.random.default_rng(0).uniform(0, 1, (5, 3))
    np.testing.assert_allclose(
        ensemble.stack({"max3exam": scores}),
        ensemble.stack({"v1mix": scores, "max3exam": scores}),
        atol=1e-6,
    )


class TestFindingTheCompetition:
    CLASSES = ("Bark", "Meow", "Tick-tock")

    def test_by_its_classes_in_the_samples_order(self, competition):
        split, columns = dataset.find_test(competition, list(self.CLASSES[::-1]))
        assert split.fnames[0] == "test00.wav"
        assert columns == ["fname", *self.CLASSES]

    def test_composed_and_decomposed_names_are_the_same(self, tmp_path):
        composed, decomposed = (unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD"))
        (tmp_path / "sample_submission.csv").write_text(f"fname,a,b\n{composed},0,0\n")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / decomposed).touch()
        split, _ = dataset.find_test(tmp_path, ["a", "b"])
        assert split.fnames == [composed]
        split.files[0].open().close()

    def test_what_is_missing_is_named(self, competition, tmp_path):
        with pytest.raises(InputError, match=r"no sample_submission.csv with .* 2 classes"):
            dataset.find_test(competition, ["a", "b"])
        (tmp_path / "sample_submission.csv").write_text("fname,a,b\nc.wav,0,0\n")
        with pytest.raises(InputError, match=r"none of the test clips is in test/, audio_test/"):
            dataset.find_test(tmp_path, ["a", "b"])

    def test_what_else_is_mounted_does_not_matter(self, tmp_path):
        for name, sample in (("a", "id,target\n1,0\n"), ("b", "fname,a,b\nc.wav,0,0\n")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sample_submission.csv").write_text(sample)
        shutil.copytree(tmp_path / "b", tmp_path / "c" / "deeper")
        (tmp_path / "c" / "deeper" / "test").mkdir()
        (tmp_path / "c" / "deeper" / "test.zip").write_bytes(b"no archive")
        (tmp_path / "c" / "deeper" / "test" / "c.wav").touch()
        split, _ = dataset.find_test(tmp_path, ["a", "b"])
        assert split.files[0].container == tmp_path / "c" / "deeper" / "test"

    def test_a_missing_clip_cannot_be_opened(self, tmp_path):
        (tmp_path / "sample_submission.csv").write_text("fname,a,b\nc.wav,0,0\nd.wav,0,0\n")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "d.wav").write_bytes(b"")
        split, _ = dataset.find_test(tmp_path, ["b", "a"])
        with pytest.raises(PipelineError, match="cannot be opened"):
            split.files[0].open()
        split.files[1].open().close()
