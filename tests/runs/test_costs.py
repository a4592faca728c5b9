"""What stages cost is added up, however they end."""

from types import SimpleNamespace

import pytest

from config import Config
from runs import costs


@pytest.fixture
def run(tmp_path):
    return SimpleNamespace(root=tmp_path, configs=[Config(precision="float32")])


def test_runs_of_a_stage_are_added_up(run):
    for stage in ("preprocess", "train"):
        with costs.recorded(run, stage):
            pass
    with pytest.raises(KeyboardInterrupt), costs.recorded(run, "train"):
        raise KeyboardInterrupt
    path = run.root / "stages.csv"
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    fields = [line.split(",", 4) for line in lines[2:]]
    fields[0][2:4], fields[1][2:4] = ("1", "0.1"), ("2", "3.5")
    torn = "train,20"
    path.write_text("\n".join([*lines[:2], *map(",".join, fields), torn]) + "\n")
    table = costs.totals(run.root).set_index("stage")
    assert list(table.index) == ["preprocess", "train"]
    assert table.loc["train", "minutes"] == 3
    assert table.loc["train", "gigabytes"] == 3.5
    assert 0 < table.loc["preprocess", "gigabytes"] < 64


def test_networks_have_a_precision_and_preprocessing_none(run):
    for stage in ("preprocess", "train"):
        with costs.recorded(run, stage):
            pass
    table = costs.totals(run.root).set_index("stage")
    assert list(table["precision"]) == ["", "float32"]
    assert (table["machine"] == costs.machine()).all()


def test_nothing_recorded_is_an_empty_table(tmp_path):
    assert costs.totals(tmp_path).empty


@pytest.mark.parametrize("left", ["", "train,2026-11-30 12:00:00,1.5,0.4,a machine,float32\n"])
def test_a_table_that_a_full_disk_left_without_its_header(run, left):
    (run.root / "stages.csv").write_text(left)
    assert costs.totals(run.root).empty
    with costs.recorded(run, "train"):
        pass
    assert len(costs.totals(run.root)) == (not left)
