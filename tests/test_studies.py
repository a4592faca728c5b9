"""What the studies of tests/README.md compute, on figures made up."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import esc10
import real_sets
import study
from clips import dataset
from conftest import run_of
from solution.folds import assign_folds_by_name
from storage import write_scores

HERE = Path(__file__).resolve().parent


def test_differences_are_paired_by_seed_and_noise_is_called_so():
    rows = []
    for seed, easy in enumerate([0.0, 0.1, 0.2, 0.7]):  # seeds differ by more than variants
        for variant, gain, luck in (
            (study.BASE, 0.0, 0.0),
            ("gains", 0.02, 0.001),
            ("luck", 0.0, 0.03),
        ):
            if seed == 3 and variant != study.BASE:  # not trained yet
                continue
            lwlrap = 0.5 + easy + gain + luck * (seed - 1)
            rows.append({"seed": seed, "variant": variant, "oof": lwlrap, "minutes": 2.0})
            rows[-1]["test"] = lwlrap - 0.1
    table = study.differences(pd.DataFrame(rows), [study.BASE, "gains", "luck"])
    # 4.303 standard errors of three seeds: 0.001 / sqrt(3)
    assert table.loc["gains", "oof, difference"] == "+0.0200 ± 0.0025"
    assert table.loc["gains", "pairs"] == 3
    assert table.loc["luck", "oof, difference"] == "+0.0000 ± 0.0745 (noise)"
    assert table.loc["gains", "test"] == "0.5200"


def test_pairs_of_two_datasets_are_pooled():
    rows = [
        {"seed": 1, "variant": variant, "oof": oof, "test": oof}
        for variant, oof in ((study.BASE, 0.5), ("gains", 0.6))
    ]
    easy = pd.DataFrame(rows)
    hard = easy.assign(oof=easy["oof"] - [0.3, 0.26])
    again = {"seed": 1, "variant": study.AGAIN, "oof": 0.25, "test": 0.5}  # 0.2 at first
    hard = pd.concat([hard, pd.DataFrame([again])])
    table = study.differences(study.pooled(easy, hard), [study.BASE, "gains"])
    assert table.loc["gains", "pairs"] == 2
    # 0.1 and 0.115: 12.71 standard errors of two pairs
    assert table.loc["gains", "oof, difference"] == "+0.1075 ± 0.0953"


def test_the_tables_of_the_readme_are_those_of_the_rows():
    readme = (HERE / "README.md").read_text()
    each = [pd.read_csv(rows) for rows in sorted((HERE / "measured").glob("*.csv"))]
    assert len(each) == 2
    for scores in (*each, study.pooled(*each)):
        for table in study.tables(scores):
            assert table in readme


def test_official_folds_are_each_the_test_set_of_the_others(make_clips, tmp_path):
    made = make_clips(sizes={"curated": 10, "noisy": 0, "test": 0})
    made.write_clips(tmp_path / "audio", "curated")
    files = made.tables["curated"]["fname"]
    clips = pd.DataFrame(
        {"file": files, "category": ["Bark", "Meow"] * 5, "fold": [1, 1, 2, 2, 3] * 2}
    )
    clips["freesound_id"] = [7] * 5 + [8] * 5
    splits = real_sets.by_official_fold(clips, 2)
    real_sets.lay_out(splits, tmp_path / "audio", tmp_path / "in")
    data = dataset.load(tmp_path / "in")
    assert list(data["curated"].groups) == ["7"] * 3 + ["8"] * 3
    assert set(data["test"].fnames) == set(files[clips["fold"] == 2])
    assert set(data["curated"].fnames) == set(files[clips["fold"] != 2])

    right = pd.get_dummies(clips.set_index("file")["category"]).loc[data["test"].fnames]
    wrong = right.to_numpy().copy()
    wrong[0] = wrong[0, ::-1]
    (tmp_path / "out" / "predictions" / "v1mix").mkdir(parents=True)
    for path, scores in (("submission.csv", right), ("predictions/v1mix/test.csv", wrong)):
        scores = np.asarray(scores, np.float32)
        write_scores(tmp_path / "out" / path, data["test"].fnames, data.classes, scores)
    found = esc10.accuracies(clips, tmp_path / "out")
    assert found == {"ensemble": 1.0, "v1mix": pytest.approx(0.75)}


def test_networks_are_tested_on_the_official_fold_that_they_did_not_hear(
    make_clips, tmp_path, monkeypatch, capsys
):
    made = make_clips(sizes={"curated": 20, "noisy": 0, "test": 0})
    made.write_clips(tmp_path / "esc10" / "audio", "curated")
    files = made.tables["curated"]["fname"]
    clips = pd.DataFrame({"file": files, "category": ["Bark", "Meow"] * 10, "freesound_id": 7})
    clips["fold"] = np.arange(20) // 2 % 5 + 1  # two clips of each class in each
    clips.to_csv(tmp_path / "esc10" / "esc10.csv", index=False)

    def stages(function, output, settings, options):
        run = run_of(*options)
        assert settings == {"n_folds": 5, "training": {"keep_from": 39}}
        data, (one, other) = run.dataset, run.configs
        curated = data["curated"]
        folds = assign_folds_by_name(curated.fnames, curated.labels, 5, groups=curated.groups)
        assert len({*zip(folds, clips["fold"], strict=True)}) == len({*folds}) == 5
        truth = pd.get_dummies(clips["category"]).to_numpy(np.float32)
        for config, wrong in ((one, [0, 2]), (other, [0])):
            scores = truth.copy()
            scores[wrong] = 0.9 * scores[wrong, ::-1]  # less sure than the other network
            (output / "predictions" / config.name).mkdir(parents=True)
            path = output / "predictions" / config.name / "oof.csv"
            write_scores(path, curated.fnames, data.classes, scores)

    monkeypatch.setattr(esc10.processes, "apart", stages)
    arguments = ["esc10.py", str(tmp_path / "esc10"), str(tmp_path / "out"), "--profile", "best"]
    monkeypatch.setattr("sys.argv", arguments)
    esc10.main()
    *_, mean = printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "0.75", "0.75", "0.75"] in printed
    assert ["2", "0.75", "1.00", "1.00"] in printed
    assert mean == ["mean", "0.90", "0.95", "0.95"]


def test_noisy_clips_are_another_fold_and_four_labels_in_ten_are_wrong(make_clips, tmp_path):
    made = make_clips(sizes={"curated": 50, "noisy": 0, "test": 0})
    made.write_clips(tmp_path / "audio", "curated")
    files = made.tables["curated"]["fname"]
    clips = pd.DataFrame({"file": files, "category": ["Bark", "Meow"] * 25})
    clips = clips.assign(fold=np.arange(50) // 10 + 1, freesound_id=np.arange(50) // 2)
    splits = real_sets.with_noisy(clips, 1)  # of the fold before the first: the fifth
    real_sets.lay_out(splits, tmp_path / "audio", tmp_path / "in")
    data = dataset.load(tmp_path / "in")
    assert set(data["noisy"].fnames) == set(files[40:])
    assert len(data["curated"]) == 30
    assert len(set(data["curated"].groups)) == 15
    right = pd.get_dummies(clips.set_index("file")["category"]).loc[data["noisy"].fnames]
    assert (right.to_numpy() != data["noisy"].labels).any(axis=1).sum() == 4


def test_a_share_of_the_groups(make_clips, tmp_path):
    made = make_clips(sizes={"curated": 12, "noisy": 0, "test": 0})
    made.write_clips(tmp_path / "audio", "curated")
    clips = made.tables["curated"].assign(
        split=["train", "noisy", "test"] * 4, usage=["", "", "Public"] * 4
    )
    clips = clips.assign(true_labels=clips["labels"], group=list("aaabbbcccddd"))
    part = real_sets.part_of(clips, 0.5)
    real_sets.lay_out(part, tmp_path / "audio", tmp_path / "in")
    data = dataset.load(tmp_path / "in")
    assert {split: len(data[split]) for split in data.splits} == {
        "curated": 2,
        "noisy": 2,
        "test": 2,
    }
    assert list(data["curated"].groups) == ["a", "c"]


def test_an_ensemble_is_compared_with_its_better_member(finished_run):
    root, _, _, _ = finished_run
    found = study.combined(root / "out")
    table = pd.read_csv(root / "out" / "scores.csv", index_col="model")
    better = table.loc[["v1mix", "max3exam"], "OOF lwlrap"].idxmax()
    assert found["best member"]["test"] == table.loc[better, "test lwlrap"]
    assert found["average"]["oof"] == table.loc["average", "OOF lwlrap"]
    assert found["ensemble"]["oof"] == table.loc["ensemble, held out", "OOF lwlrap"]


def test_a_row_that_is_there_is_not_trained_again(make_clips, tmp_path, monkeypatch, capsys):
    make_clips(sizes={"curated": 9, "noisy": 6, "test": 3}).write(tmp_path / "in")
    short = {"epochs": 1, "milestones": [], "keep_from": 0}
    tiny = {"stem_filters": 4, "block_filters": [4, 4, 4, 4], "gru_units": 4}
    tiny |= {"crop_samples": 44100, "pretraining": short, "training": short}
    monkeypatch.setattr(study, "COMMON", study.COMMON | tiny)
    arguments = ["study", str(tmp_path / "in"), str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*arguments, "--only", study.BASE, "--seeds", "2"])
    study.main()
    (row,) = pd.read_csv(tmp_path / "out" / "rows.csv").to_dict("records")
    assert (row["seed"], row["variant"]) == (2, study.BASE)
    assert (tmp_path / "out" / "as-it-is-2" / "models" / "v1mix" / "fold1.weights.h5").exists()
    for changed in (tmp_path / "out").glob("as-it-is-2/*.csv"):
        changed.unlink()
    monkeypatch.setattr(study, "run_stages", None)
    study.main()
    assert "as it is" in capsys.readouterr().out
