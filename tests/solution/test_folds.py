"""The folds: the published assignment, whatever the order of the table."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solution.folds import assign_folds, assign_folds_by_name


def test_published_assignment(golden):
    reference = golden("folds")
    np.testing.assert_array_equal(assign_folds(reference["labels"]), reference["fold"])


def test_every_class_is_spread_over_all_folds():
    labels = np.eye(5, dtype=int)[np.arange(100) % 5]
    folds = assign_folds(labels, n_folds=4)
    for fold in range(4):
        np.testing.assert_array_equal(labels[folds == fold].sum(axis=0), 5)


def test_fewer_clips_than_folds():
    with pytest.raises(ValueError, match="expected 10 clips at least, one for each fold; got 3"):
        assign_folds(np.eye(3))


@given(st.permutations(range(40)))
def test_the_order_of_the_table_does_not_matter(order):
    fnames = np.array([f"{number:02d}.wav" for number in range(40)])
    labels = np.random.default_rng(0).integers(2, size=(40, 6))
    expected = assign_folds(labels, n_folds=4)
    found = assign_folds_by_name(fnames[order], labels[order], n_folds=4)
    np.testing.assert_array_equal(found, expected[order])


@given(st.permutations(range(60)), st.integers(2, 5), st.integers(0, 99))
def test_groups_stay_together_whatever_the_order_of_the_table(order, n_folds, seed):
    rng = np.random.default_rng(seed)
    fnames = np.array([f"{number:02d}.wav" for number in range(60)])
    labels = rng.integers(2, size=(60, 4))
    groups = np.array([f"recording {number}" for number in rng.integers(20, size=60)])
    folds = assign_folds_by_name(fnames, labels, n_folds, groups=groups)
    for group in set(groups):
        assert len(set(folds[groups == group])) == 1
    moved = assign_folds_by_name(fnames[order], labels[order], n_folds, groups=groups[order])
    np.testing.assert_array_equal(moved, folds[order])


def test_groups_keep_the_shares_of_classes():
    labels = np.repeat(np.eye(5, dtype=int), 24, axis=0)  # 120 clips, three of each recording
    groups = np.arange(120) // 3
    folds = assign_folds_by_name(np.arange(120).astype(str), labels, 4, groups=groups.astype(str))
    for fold in range(4):
        np.testing.assert_array_equal(labels[folds == fold].sum(axis=0), 6)


def test_both_real_tables_give_each_clip_the_same_fold(needs_fsdkaggle2019):
    folds = []
    for name in ("train_curated.csv", "train_curated_post_competition.csv"):
        table = pd.read_csv(needs_fsdkaggle2019 / name)
        labels = table["labels"].str.get_dummies(",").to_numpy()
        assert labels.shape == (4970, 80)
        folds.append(pd.Series(assign_folds_by_name(table["fname"], labels), table["fname"]))
    assert list(folds[0].index) == sorted(folds[0].index)  # Kaggle's, as published
    np.testing.assert_array_equal(folds[0], assign_folds(labels_of(folds[0], needs_fsdkaggle2019)))
    assert list(folds[1].index) != list(folds[0].index)
    np.testing.assert_array_equal(folds[1][folds[0].index], folds[0])


def labels_of(folds: pd.Series, root) -> np.ndarray:
    """The labels in the order of Kaggle's table."""
    table = pd.read_csv(root / "train_curated.csv", index_col="fname")
    return table["labels"].loc[folds.index].str.get_dummies(",").to_numpy()
