"""LRAP and lwlrap against scikit-learn, and against a case worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score

from solution import metrics

# Clip 0: label 0 at rank 2 -> 1/2. Clip 1: labels 0 and 2 at ranks 1 and 3 -> 1/1 and 2/3.
TRUTH = np.array([[1, 0, 0], [1, 0, 1]])
SCORES = np.array([[0.5, 0.9, 0.1], [0.9, 0.5, 0.1]])


def test_by_hand():
    assert metrics.lrap(TRUTH, SCORES) == pytest.approx((1 / 2 + (1 + 2 / 3) / 2) / 2)
    assert metrics.lwlrap(TRUTH, SCORES) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    score, weight = metrics.per_class_lwlrap(TRUTH, SCORES)
    assert score == pytest.approx([(1 / 2 + 1) / 2, 0, 2 / 3])
    assert weight == pytest.approx([2 / 3, 0, 1 / 3])


def cases():
    def build(seed, clips, classes, ties):
        rng = np.random.default_rng(seed)
        scores = rng.random((clips, classes))
        truth = rng.random((clips, classes)) < 0.3
        truth[0, 0] = True
        return truth.astype(int), np.round(scores, 1) if ties else scores

    return st.builds(
        build, st.integers(0, 2**32), st.integers(1, 30), st.integers(2, 12), st.booleans()
    )


@given(cases())
def test_lwlrap_is_lrap_weighted_by_labels(case):
    truth, scores = case
    reference = label_ranking_average_precision_score(
        truth, scores, sample_weight=truth.sum(axis=1)
    )
    assert metrics.lwlrap(truth, scores) == pytest.approx(reference)
    assert metrics.lrap(truth, scores) == pytest.approx(
        label_ranking_average_precision_score(truth, scores)
    )


@given(cases())
def test_per_class_scores_add_up_to_lwlrap(case):
    truth, scores = case
    score, weight = metrics.per_class_lwlrap(truth, scores)
    assert (score * weight).sum() == pytest.approx(metrics.lwlrap(truth, scores))
    assert weight.sum() == pytest.approx(1)


def test_without_labels_lwlrap_is_undefined():
    assert np.isnan(metrics.lwlrap(np.zeros((2, 3)), np.ones((2, 3))))
