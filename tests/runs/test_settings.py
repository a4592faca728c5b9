"""Settings files: what they change, and what they may not say."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from conftest import run_of
from messages import InputError
from runs import settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[1]", "expected settings by name"),
        ('{"n_hopp": 512}', r"there is no setting 'n_hopp' \(nearest: n_hop\)"),
        ('{"name": "v1mix"}', "there is no setting 'name'"),
        ('{"n_hop": 512.5}', "n_hop must be int; got 512.5"),
        ('{"n_hop": true}', "n_hop must be int; got true"),
        ('{"fmax": "high"}', r"fmax must be float \| None; got \"high\""),
        ('{"htk": 1}', "htk must be bool; got 1"),
        ('{"pooling": ["max"]}', r"pooling must be tuple\[str, str\]"),
        ('{"block_filters": [16, "a"]}', "block_filters must be"),
        ('{"training": 3}', r'training must be settings by name, as {"epochs": 40}; got 3'),
        ('{"training": []}', r"training must be settings by name, .*; got \[\]"),
        ('{"htk": true, "n_hop": 512, "htk": true}', "no JSON of settings: htk is there twice"),
        ('{"training": {"epoch": 3}}', r"training.there is no setting 'epoch' \(nearest: epochs\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"--settings {path}.*{message}"):
        settings.read(path)


def test_as_notepad_saves_it(tmp_path):
    (tmp_path / "mine.json").write_text('{"n_hop": 512}', "utf-8-sig")
    assert settings.read(tmp_path / "mine.json") == {"n_hop": 512}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mine.json cannot be read \(No such file"):
        settings.read(tmp_path / "mine.json")


@given(st.sampled_from(sorted(config.EXPERIMENTS)), st.sampled_from(sorted(config.PROFILES)))
def test_every_experiment_is_a_settings_file(name, profile):
    (expected,) = config.experiments(profile, [name])
    values = json.loads(json.dumps(dataclasses.asdict(expected)))
    changed = {key: value for key, value in values.items() if key not in settings.FIXED}
    settings._check(changed, settings.KINDS, "")
    assert config.overridden(config.EXPERIMENTS[name], changed) == expected


def test_they_hold_for_every_experiment_and_its_pretraining(clips, tmp_path, run_stage):
    clips.write(tmp_path / "in")
    path = tmp_path / "mine.json"
    path.write_text('{"n_hop": 800, "pooling": ["max", "ave"], "training": {"mixup_prob": 0.25}}')
    arguments = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--profile", "small")
    run = run_of(*arguments, "--settings", path)
    (base,) = config.experiments("small", ["v1mix"])
    for found in (*run.configs, *run.pretrainings()):
        assert (found.n_hop, found.pooling, found.training.mixup_prob) == (
            800,
            ("max", "ave"),
            0.25,
        )
        assert found.training.epochs == base.training.epochs
    path.write_text('{"fmin": 9000, "fmax": 8000}')
    with pytest.raises(SystemExit, match="mine.json: fmin must be at least 0 and below fmax"):
        run_stage("preprocess", *arguments, "--settings", path)
