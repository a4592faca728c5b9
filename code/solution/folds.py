"""The folds: multi-label iterative stratification, as published."""

from collections.abc import Sequence

import numpy as np


def assign_folds(labels: np.ndarray, n_folds: int = 10, seed: int = 66666) -> np.ndarray:
    """Multi-label iterative stratification, unshuffled, of multi-hot labels (clips, classes).

    Gives the fold in which each clip is validated, int (clips,); `seed` breaks ties between equally
    good ones. ValueError if there are fewer clips than folds.

    Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, ECML PKDD 2011.
    """
    labels = np.asarray(labels)
    if len(labels) < n_folds:
        raise ValueError(f"expected {n_folds} clips at least, one for each fold; got {len(labels)}")
    # Here, not above: where clips are only tagged, it may be missing.
    from iterstrat.ml_stratifiers import IterativeStratification

    # MultilabelStratifiedKFold refuses a random state without shuffling; this is its core.
    return IterativeStratification(
        labels=labels.astype(bool),
        r=np.full(n_folds, 1 / n_folds),
        random_state=np.random.RandomState(seed),
    ).astype(int)


def assign_folds_by_name(
    fnames: Sequence[str],
    labels: np.ndarray,
    n_folds: int = 10,
    seed: int = 66666,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """`assign_folds` in the order of the clips' names, whatever the order of the table.

    Kaggle's table, by which the folds were published, is sorted by fname; Zenodo's is not.

    groups : (clips,), optional
        Clips of one group, as those cut from one recording, come into the same fold: else scores
        out of fold reward what was learned by heart. Stratified are then the groups, each with the
        labels of all its clips; there may not be fewer than folds. Published setting: none.
    """
    order, folds = np.argsort(np.asarray(fnames), kind="stable"), np.empty(len(labels), int)
    if groups is None:
        folds[order] = assign_folds(labels[order], n_folds, seed)
        return folds
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)  # (clips,)
    labels_of_groups = np.zeros((group_of.max() + 1, labels.shape[1]), bool)
    np.logical_or.at(labels_of_groups, group_of, np.asarray(labels, bool))
    return assign_folds(labels_of_groups, n_folds, seed)[group_of]
