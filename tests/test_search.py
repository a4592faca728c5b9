"""A search: what it varies, that it goes on, prunes, keeps studies apart, and what it leaves."""

import dataclasses
import json
import shutil

import numpy as np
import optuna
import pytest

import config
import search
from cluster import processes as processes_of_dask
from cluster import start_scheduler, worker
from conftest import run_of
from fast import processes
from messages import InputError, KilledProcess
from runs import settings, study, trials
from solution import metrics

BASE = config.experiments("small", ["v1mix"])[0]


@pytest.fixture
def arguments(finished_run, tmp_path):
    """Of a run with clips and folds only."""
    root, _, arguments, _ = finished_run
    for name in ("clips", "folds.csv", "folds.json"):
        there = root / "out" / name
        (shutil.copytree if there.is_dir() else shutil.copy)(there, tmp_path / name)
    return (*arguments[:3], tmp_path, *arguments[4:])


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(processes, "apart", lambda function, *rest: function(*rest))


@pytest.fixture
def scored(monkeypatch, in_this_process):
    """Trials that train nothing: the score grows with n_hop, from epoch to epoch alike."""
    chosen = []

    def score(run, config, folder, report=lambda *_: None):
        chosen.append(config)
        for epoch in range(8):
            report(epoch, config.n_hop / 4000 + epoch / 1000)
        return config.n_hop / 4000

    monkeypatch.setattr(trials, "score", score)
    monkeypatch.setattr(trials, "WARM_UP_EPOCHS", 0)
    return chosen


class TestRanges:
    def test_the_front_end_is_varied_around_what_it_is(self):
        found = study.ranges([], BASE)
        assert tuple(found) == study.FRONT_END
        assert (found["n_hop"].low, found["n_hop"].high, found["n_hop"].log) == (500, 2000, True)
        assert found["n_mels"].choices == (32, 48, 64, 96, 128)
        assert found["fmax"].high == 22_050
        assert found["trainable_fb"].choices == (False, True)

    def test_what_is_named_is_varied_too(self):
        over = ["learning_rate", "mixup_prob", "n_hop=500", "pooling=max+ave/max+avemax1"]
        found = study.ranges([*over, "epochs=10:30", "block_filters=16+32+48+64"], BASE)
        assert found["learning_rate"].low == pytest.approx(2.5e-4)
        assert found["learning_rate"].high == pytest.approx(4e-3)
        assert (found["mixup_prob"].low, found["mixup_prob"].high) == (0, 1)
        assert found["n_hop"].choices == (500,)
        assert found["pooling"].choices == ("max+ave", "max+avemax1")
        drawn = {"pooling": "max+ave", "block_filters": "16+32+48+64", "epochs": 10, "n_hop": 500}
        chosen = config.overridden(BASE, study.as_settings(drawn, BASE))
        assert chosen.pooling == ("max", "ave")
        assert chosen.block_filters == (16, 32, 48, 64)
        assert chosen.training.milestones == (5, 7, 8)  # half of 10, 14 and 17
        assert (chosen.training.epochs, chosen.n_hop) == (10, 500)

    @pytest.mark.parametrize(
        ("over", "message"),
        [
            ("learning_rat", r"can be .*mixup_prob.* \(nearest: learning_rate\)"),
            ("sample_rate", "can be "),
            ("n_folds", "can be "),
            ("pooling", r"name the values, as in pooling=max\+avemax1/OTHER"),
            ("stop_from", "name the values, as in stop_from=null/OTHER"),
            ("n_hop=5:1", "low|high"),
            ("n_hop=a:b", "expected int, got 'a'"),
            ("htk=maybe", "expected bool, got 'maybe'"),
        ],
    )
    def test_what_cannot_be_varied_is_refused_with_what_can(self, over, message):
        with pytest.raises(InputError, match=f"--over {over}.*{message}"):
            study.ranges([over], BASE)

    @pytest.mark.parametrize("name", study.KINDS)
    def test_every_setting_can_be_held_where_it_is(self, name):
        value = study.present(name, BASE)
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            (choice,) = study.ranges([f"{name}={text}"], BASE)[name].choices
            assert config.overridden(BASE, study.as_settings({name: choice}, BASE)) == (
                BASE if name != "fmax" else dataclasses.replace(BASE, fmax=22_050.0)
            )


def test_trials_train_without_preparing_clips_and_the_best_is_a_settings_file(
    arguments, run_stage, tmp_path, capsys
):
    """Each in a process of its own, as `sh run.sh search` does it."""
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").rglob("*")}
    run_stage("search", *arguments, "--trials", "2", "--over", "n_dft=512,n_mels=32/64")
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").rglob("*")} == before
    assert "importance" in printed
    assert not (tmp_path / "search" / "trials").exists() or not any(
        (tmp_path / "search" / "trials").iterdir()
    )
    (found,) = optuna.get_all_study_summaries(study.url(tmp_path))
    done = optuna.load_study(study_name=found.study_name, storage=study.url(tmp_path))
    best = settings.read(tmp_path / "search" / "best.json")
    assert done.best_params.items() <= best.items()
    run = run_of(*arguments, "--settings", tmp_path / "search" / "best.json")
    assert run.configs[0].n_dft == 512
    run_stage("search", *arguments, "--trials", "2", "--over", "n_dft=512,n_mels=32/64")
    assert "trial 3" not in capsys.readouterr().out
    assert (
        len(optuna.load_study(study_name=found.study_name, storage=study.url(tmp_path)).trials) <= 3
    )


def test_workers_try_settings_at_once(arguments, run_stage, tmp_path, capsys):
    with processes_of_dask() as start:
        file = start_scheduler(start, tmp_path)
        start(*worker(file, "--nworkers", 2, "--host", "127.0.0.1"), cwd=tmp_path)
        options = ("--scheduler-file", file, "--trials", "2")
        run_stage("search", *arguments, *options, "--over", "n_dft=512,n_mels=32/64")
    said = capsys.readouterr().out
    (found,) = study.all_studies(tmp_path)
    done = optuna.load_study(study_name=found.study_name, storage=study.url(tmp_path))
    first, second = study.tried(done)
    assert first.params != second.params
    assert first.datetime_complete > second.datetime_start  # they were under way together
    for trial in (first, second):
        assert len(trial.intermediate_values) == 2
        assert f"trial {trial.number}: on " in said
    assert f"trial 1: out-of-fold lwlrap {done.trials[1].value:.4f}" in said
    assert done.best_params.items() <= settings.read(tmp_path / "search" / "best.json").items()


def test_the_score_is_that_of_all_clips_of_the_folds(arguments, tmp_path, monkeypatch):
    run, reports, kept = run_of(*arguments, "--experiments", "v1mix"), [], []
    fit = trials.Training.fit

    def noting(training, *callbacks):
        kept.append((training.validation, fit(training, *callbacks)))
        return kept[-1][1]

    monkeypatch.setattr(trials.Training, "fit", noting)
    found = trials.score(run, run.configs[0], tmp_path / "t", lambda *one: reports.append(one))
    truth = np.concatenate([clips.labels[clips.clips] for clips, _ in kept])
    assert len(truth) == 20
    assert found == metrics.lwlrap(truth, np.concatenate([one.scores for _, one in kept]))
    assert [epoch for epoch, _ in reports] == [0, 1, 2, 3]
    reports.clear()  # all of it is there: nothing is trained again
    assert (
        trials.score(run, run.configs[0], tmp_path / "t", lambda *one: reports.append(one)) == found
    )
    assert [epoch for epoch, _ in reports] == [0, 1, 2, 3]


def test_an_interrupted_trial_goes_on_from_its_last_epoch(
    arguments, run_stage, tmp_path, monkeypatch, in_this_process, capsys
):
    def interrupting(*_):
        raise KeyboardInterrupt

    command = ("search", *arguments, "--trials", "1", "--over", "n_hop=1000")
    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "should_prune", interrupting)
        with pytest.raises(SystemExit) as stopped:
            run_stage(*command)
    assert stopped.value.code == 130
    assert "epoch  1/2" in capsys.readouterr().out
    run_stage(*command)
    printed = capsys.readouterr().out
    assert "epoch  2/2" in printed
    assert "epoch  1/2" not in printed
    summaries = optuna.get_all_study_summaries(study.url(tmp_path))
    first, second = optuna.load_study(
        study_name=summaries[0].study_name, storage=study.url(tmp_path)
    ).trials
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE")
    assert first.params == second.params
    assert list(second.intermediate_values) == [0, 1]


class TestStudy:
    def trials(self, folder, number=0):
        summary = study.all_studies(folder)[number]
        return optuna.load_study(study_name=summary.study_name, storage=study.url(folder))

    def test_the_present_settings_come_first_and_the_best_are_shown(
        self, arguments, run_stage, tmp_path, scored, capsys
    ):
        held = "n_dft=1024,n_mels=64,fmin=0,fmax=22050,return_decibel_melgram=true,htk"
        options = ("--over", f"learning_rate,trainable_kernel=false,trainable_fb=false,{held}")
        run_stage("search", *arguments, "--trials", "12", *options)
        (base,) = run_of(*arguments, "--experiments", "v1mix").configs
        assert scored[0] == dataclasses.replace(base, fmax=22_050.0)
        done = self.trials(tmp_path)
        assert len(study.tried(done)) == 12
        given_up = [trial for trial in study.tried(done) if trial.state.name == "PRUNED"]
        assert given_up  # below the median of the others
        best = json.loads((tmp_path / "search" / "best.json").read_text())
        assert best["n_hop"] == max(chosen.n_hop for chosen in scored)
        importance = study.importances(done)
        assert max(importance, key=importance.get) == "n_hop"
        table = search.table(done)
        assert table.columns[-1] == "importance"
        lwlraps = table.loc["lwlrap"].iloc[:-1]
        assert lwlraps.is_monotonic_decreasing
        assert table.loc["n_hop"].iloc[0] == best["n_hop"]

        draws = len(done.trials)
        run_stage("search", *arguments, "--trials", "14", *options)
        assert len(study.tried(self.trials(tmp_path))) == 14
        hops = [trial.params["n_hop"] for trial in self.trials(tmp_path).trials]
        assert not {*hops[draws:]} & {*hops[1:draws]}  # it does not draw the same again

    def test_figures_are_plotlys(self, arguments, run_stage, tmp_path, scored):
        plotly = pytest.importorskip("plotly.graph_objects")
        run_stage("search", *arguments, "--trials", "1")
        assert len(study.figures(self.trials(tmp_path))) == 1
        run_stage("search", *arguments, "--trials", "6")
        drawn = study.figures(self.trials(tmp_path))
        assert len(drawn) == 3
        assert all(isinstance(figure, plotly.Figure) for figure in drawn)

    def test_other_settings_are_another_study(self, arguments, run_stage, tmp_path, scored, capsys):
        run_stage("search", *arguments, "--trials", "2")
        assert "a study of its own" not in capsys.readouterr().out
        (tmp_path / "mine.json").write_text('{"learning_rate": 0.5}')
        mine = ("--settings", tmp_path / "mine.json")
        run_stage("search", *arguments, *mine, "--trials", "1")
        printed = capsys.readouterr().out
        assert "a study of its own, beside 1" in printed
        assert "settings.learning_rate 0.003 -> 0.5" in printed
        assert len(study.all_studies(tmp_path)) == 2
        best = json.loads((tmp_path / "search" / "best.json").read_text())
        assert best["learning_rate"] == 0.5  # what it was searched with stays
        run_stage("search", *arguments, "--trials", "2", "--folds", "1")
        assert "folds [0] -> [1]" in capsys.readouterr().out

    def test_the_settings_are_those_of_the_study_that_was_asked_for(
        self, arguments, run_stage, tmp_path, scored, capsys
    ):
        best = tmp_path / "search" / "best.json"
        run_stage("search", *arguments, "--trials", "2")
        found = best.read_text()
        (tmp_path / "mine.json").write_text('{"stem_filters": 8}')
        mine = ("--settings", tmp_path / "mine.json")
        run_stage("search", *arguments, *mine, "--trials", "1")
        assert json.loads(best.read_text())["stem_filters"] == 8
        capsys.readouterr()
        run_stage("search", *arguments, "--trials", "2")
        assert best.read_text() == found
        assert f"train with --profile tiny --settings {best}" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="writes .*best.json anew: copy it"):
            run_stage("search", *arguments, "--settings", best)

    def test_a_fold_without_clips_is_named(
        self, arguments, run_stage, monkeypatch, in_this_process
    ):
        monkeypatch.setattr(trials.Run, "clip_folds", lambda run: np.zeros(20, int))
        with pytest.raises(SystemExit, match="fold 0 has no readable clip to train on or to score"):
            run_stage("search", *arguments, "--trials", "1")

    def test_what_comes_to_nothing_is_given_up_with_its_reason(
        self, arguments, run_stage, tmp_path, scored, monkeypatch
    ):
        score = trials.score
        errors = [FloatingPointError("the loss became nan"), MemoryError(), KilledProcess("x")]

        def failing(*rest):
            if errors:
                raise errors.pop(0)
            return score(*rest)

        monkeypatch.setattr(trials, "score", failing)
        run_stage("search", *arguments, "--trials", "2", "--over", "n_dft=1024,n_mels=64")
        first, second, third, fourth = self.trials(tmp_path).trials  # the first two were none
        assert first.user_attrs["why"] == "the loss became nan"
        assert second.user_attrs["why"] == "it takes more memory than there is"
        assert third.user_attrs[study.KILLED]
        assert fourth.state.name == "COMPLETE"

    def test_settings_with_which_no_trial_ends_end_the_search(
        self, arguments, run_stage, tmp_path, scored, monkeypatch
    ):
        def failing(*_):
            raise FloatingPointError("the loss became nan")

        monkeypatch.setattr(trials, "score", failing)
        monkeypatch.setattr(search, "MOST_IN_VAIN", 3)
        message = "none of 3 trials came to an end; the last: the loss became nan"
        with pytest.raises(SystemExit, match=message):
            run_stage("search", *arguments, "--trials", "1")
        assert len(self.trials(tmp_path).trials) == 3

    def test_what_may_be_none_is_a_whole_number_too(self, arguments, run_stage, tmp_path, scored):
        run_stage("search", *arguments, "--trials", "2", "--over", "stop_from=5:10")
        assert 5 <= settings.read(tmp_path / "search" / "best.json")["training"]["stop_from"] <= 10

    def test_impossible_settings_end_the_search(
        self, arguments, run_stage, tmp_path, scored, monkeypatch
    ):
        monkeypatch.setattr(search, "MOST_IMPOSSIBLE", 3)
        message = "none of 3 draws is possible; of the last one, .* of 128 mel bands are narrower"
        with pytest.raises(SystemExit, match=message):
            run_stage("search", *arguments, "--over", "n_mels=128,n_dft=512")
        with pytest.raises(SystemExit, match="fmin must be at least 0 and below fmax"):
            run_stage("search", *arguments, "--over", "fmin=9000,fmax=8000")
        assert scored == []

    def test_a_file_that_is_none_of_optunas(self, arguments, run_stage, tmp_path, scored):
        (tmp_path / "search").mkdir()
        (tmp_path / "search" / "study.db").write_text("no database, " * 100)
        with pytest.raises(SystemExit, match=r"study.db is no study: move it away"):
            run_stage("search", *arguments)
        with pytest.raises(InputError, match=r"study.db is no study: move it away"):
            study.latest_figures(tmp_path)  # of a report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experiments", "v1mix,max3exam"], "search takes one experiment"),
        (["--settings", "FILE"], "starts from stored log-mels"),
        (["--force"], "to begin anew, move .*search away"),
        (["--over", "nhop"], r"--over nhop: can be .*mixup_prob, .* \(nearest: n_hop\)"),
    ],
)
def test_what_search_does_not_take(arguments, run_stage, tmp_path, options, message):
    (tmp_path / "logmel.json").write_text('{"frontend": "logmel"}')
    options = [tmp_path / "logmel.json" if one == "FILE" else one for one in options]
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run_stage("search", *arguments, *options)


def test_without_clips_it_says_what_it_needs(finished_run, run_stage, tmp_path):
    arguments = (*finished_run[2][:3], tmp_path, *finished_run[2][4:])
    with pytest.raises(SystemExit, match="error: run preprocess first: no clips/curated/store"):
        run_stage("search", *arguments)
