"""Label ranking average precision (LRAP), and the competition's lwlrap.

LRAP weighs every clip alike and selects models, as published. lwlrap weighs every *label* alike:
it is LRAP with each clip weighted by its number of labels.
"""

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score


def lrap(truth: np.ndarray, scores: np.ndarray) -> float:
    """Label ranking average precision, in (0, 1], of truth (0 or 1) and scores: (clips, classes).

    A clip without labels counts as 1, as in scikit-learn.
    """
    return float(label_ranking_average_precision_score(np.asarray(truth) > 0, scores))


def lwlrap(truth: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted LRAP, the metric of Freesound Audio Tagging 2019.

    Parameters and result as `lrap`; clips without labels have no weight. NaN if no clip has one.
    """
    truth = np.asarray(truth) > 0
    n_labels = truth.sum(axis=1)
    if not n_labels.any():
        return float("nan")
    return float(label_ranking_average_precision_score(truth, scores, sample_weight=n_labels))


def per_class_lwlrap(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """lwlrap of each class, and the class's share of all labels: (classes,) each.

    The first is the mean precision at the ranks of the class's labels, 0 for a class without any.
    The sum of score times weight over the classes is `lwlrap`.
    """
    truth = np.asarray(truth) > 0
    # How many labels, and how many classes, score at least as high as each class of a clip.
    labels_at_least = rankdata(np.where(truth, np.negative(scores), np.inf), "max", axis=1)
    classes_at_least = rankdata(np.negative(scores), "max", axis=1)
    precision = np.where(truth, labels_at_least / classes_at_least, 0)  # (clips, classes)
    n_labels = truth.sum(axis=0)
    score = precision.sum(axis=0) / np.maximum(n_labels, 1)
    return score, n_labels / max(n_labels.sum(), 1)
