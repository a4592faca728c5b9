"""Probabilities: what they promise for any scores, known ones found again, and real ones."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from trained import calibration, ensemble
from trained.calibration import expected_calibration_error, top_label


def sample(n_clips=2000, n_classes=6, seed=0, offsets=0.0, low=0.04, high=0.24):
    """Truth drawn from probabilities, and scores between two bounds that rise with them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2, (n_clips, n_classes))
    probabilities = expit(logits + offsets)
    truth = (rng.random(logits.shape) < probabilities).astype(np.int8)
    return low + (high - low) * expit(logits / 2), truth, probabilities


@st.composite
def any_scores(draw):
    """Scores and labels of few clips: classes with all or no labels, ties, 0 and 1 are likely."""
    shape = draw(st.integers(2, 20)), draw(st.integers(1, 5))
    values = st.sampled_from([0, 1e-9, 0.04, 0.05, 0.2, 0.5, 0.99, 1])
    numbers, labels = (
        draw(st.lists(kind, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        for kind in (values, st.booleans())
    )
    return np.reshape(numbers, shape), np.reshape(labels, shape)


@settings(deadline=None, max_examples=60)
@given(any_scores(), st.data())
def test_a_higher_score_makes_no_class_less_probable(scores_and_truth, data):
    scores, truth = scores_and_truth
    fitted = calibration.fit(scores, truth)
    chosen = data.draw(st.integers(0, scores.shape[1] - 1))
    rising = np.tile(scores[0], (101, 1))
    rising[:, chosen] = np.linspace(0, 1, 101)
    probabilities = fitted.probabilities(rising)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert (np.diff(probabilities[:, chosen]) >= -1e-12).all()
    assert ((fitted.thresholds > 0) & (fitted.thresholds < 1)).all()


def test_many_clips_take_no_more_memory_than_some(monkeypatch):
    scores, truth, _ = sample(n_clips=3000)
    monkeypatch.setattr(calibration, "MOST_CLIPS", 1000)
    monkeypatch.setattr(
        calibration,
        "_features",
        lambda p, original=calibration._features: (
            original(p) if len(p) <= 1000 else pytest.fail("of all clips")
        ),
    )
    fitted = calibration.fit(scores, truth)
    monkeypatch.undo()
    other = calibration.fit(scores, truth)
    assert np.abs(fitted.probabilities(scores) - other.probabilities(scores)).mean() < 0.03


def test_known_probabilities_are_found_again():
    offsets = np.array([-1.5, -0.5, 0, 0.5, 1, 1.5])
    fitted = calibration.fit(*sample(offsets=offsets)[:2])
    scores, truth, expected = sample(seed=1, offsets=offsets)
    probabilities = fitted.probabilities(scores)
    assert np.abs(probabilities - expected).mean() < 0.02
    assert expected_calibration_error(probabilities, truth) < 0.02
    assert expected_calibration_error(scores, truth) > 0.1
    # One curve for all classes is further off than the offsets that were drawn.
    assert np.abs(expit(logit(probabilities) - fitted.offsets) - expected).mean() > 0.05


def test_a_class_of_few_clips_keeps_to_the_others():
    scores, truth, _ = sample(n_clips=400)
    few = calibration.fit(scores[:, :5], truth[:, :5]).offsets
    assert np.ptp(few) < 1
    # A sixth class with labels on three clips only, where its score is high.
    rare = np.zeros(400, np.int8)
    rare[:3], scores[:, 5], scores[:3, 5] = 1, 0.045, 0.2
    fitted = calibration.fit(scores, np.column_stack([truth[:, :5], rare]))
    with_others = fitted.offsets - fitted.offsets[:5].mean()
    assert abs(with_others[5]) < 1.5
    assert 0.3 < fitted.probabilities(scores)[0, 5] < 0.999
    assert fitted.thresholds[5] == pytest.approx(np.median(fitted.thresholds[:5]), abs=0.15)


def test_classes_without_a_label_or_with_all_are_not_certain():
    scores, truth, _ = sample(n_clips=200)
    truth[:, 0], truth[:, 1] = 0, 1
    fitted = calibration.fit(scores, truth)
    probabilities = fitted.probabilities(scores)
    assert 0 < probabilities[:, 0].mean() < 0.05
    assert 0.9 < probabilities[:, 1].mean() < 1
    for all_alike in (0, 1):
        alike = calibration.fit(scores, np.full_like(truth, all_alike)).probabilities(scores)
        assert np.abs(alike - all_alike).max() < 0.05


def test_the_order_of_clips_does_not_matter():
    scores, truth, _ = sample(n_clips=300)
    order = np.random.default_rng(5).permutation(300)
    one, other = calibration.fit(scores, truth), calibration.fit(scores[order], truth[order])
    np.testing.assert_allclose(
        one.probabilities(scores), other.probabilities(scores), rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(one.thresholds, other.thresholds)


def test_a_tag_that_is_alone_is_likelier():
    """Of clips with one label, the same score means more where no other class scores."""
    rng = np.random.default_rng(0)
    truth = np.eye(5, dtype=np.int8)[rng.integers(0, 5, 1000)]
    scores = expit(rng.normal(0, 1.5, truth.shape) + 3 * truth - 2)
    fitted = calibration.fit(scores, truth)
    alone, rivalled = [[0.6, 0.05, 0.05, 0.05, 0.05]], [[0.6, 0.6, 0.05, 0.05, 0.05]]
    assert fitted.probabilities(alone)[0, 0] > fitted.probabilities(rivalled)[0, 0] + 0.1


def test_thresholds_have_the_best_f1_where_labels_are_many():
    scores, truth, _ = sample(n_clips=3000, offsets=np.array([-2, -1, 0, 0, 1, 2]))
    fitted = calibration.fit(scores, truth)
    probabilities = fitted.probabilities(scores)
    said = fitted.present(probabilities)
    for number in range(6):
        best = max(
            f1_score(truth[:, number], probabilities[:, number] >= candidate)
            for candidate in calibration.CANDIDATES
        )
        assert f1_score(truth[:, number], said[:, number]) > best - 0.01
    np.testing.assert_array_equal(fitted.present(probabilities[0]), said[0])


def test_errors_by_hand():
    probabilities, truth = np.array([[0.1, 0.9], [0.1, 0.9]]), np.array([[0, 1], [1, 0]])
    # Two bins that hold something: |0.1 - 0.5| and |0.9 - 0.5|.
    assert expected_calibration_error(probabilities, truth) == pytest.approx(0.4)
    mean, share, count = calibration.reliability(probabilities, truth, bins=2)
    np.testing.assert_allclose([mean, share, count], [[0.1, 0.9], [0.5, 0.5], [2, 2]])
    certain, right = top_label(probabilities, truth)
    assert (certain.tolist(), right.tolist()) == ([0.9, 0.9], [1, 0])
    assert expected_calibration_error(certain, right) == pytest.approx(0.4)
    assert expected_calibration_error(np.ones(3), np.ones(3)) == 0


def test_are_those_of_the_run_and_its_scores_stay(finished_run):
    """One calibration per experiment and of the ensemble, which a copy of the folder has too."""
    root, *_ = finished_run
    read = ensemble.read(root / "out")
    assert list(read.calibrations) == ["v1mix", "max3exam", "ensemble"]
    truth = pd.read_csv(root / "input" / "train_curated.csv", index_col="fname")
    scores = pd.read_csv(
        root / "out" / "predictions" / "v1mix" / "oof.csv",
        index_col="fname",
        float_precision="round_trip",
    )
    truth = truth["labels"].loc[scores.index].str.get_dummies(",")[read.classes].to_numpy()
    expected = calibration.fit(scores.to_numpy(), truth)
    for name, values in vars(expected).items():
        np.testing.assert_allclose(getattr(read.calibrations["v1mix"], name), values, atol=1e-4)
    table = pd.read_csv(root / "out" / "calibration.csv")
    assert table["model"].unique().tolist() == list(read.calibrations)
    losses = table.pivot(index="model", columns="taken for a probability", values="log loss")
    assert (losses["probability"] < losses["score"]).all()


def cross_validated(scores, truth, fitted):
    """Log loss of what is fitted to four fifths of the clips and tried on the others."""
    fold, probabilities = np.random.default_rng(0).permutation(len(scores)) % 5, scores.copy()
    for number in range(5):
        known, tried = fold != number, fold == number
        probabilities[tried] = fitted(scores[known], truth[known])(scores[tried])
    return log_loss(truth.ravel(), np.clip(probabilities, 1e-3, 1 - 1e-3).ravel())


def platt(scores, truth):
    def logits(scores):
        return logit(np.clip(scores, 1e-6, 1 - 1e-6)).reshape(-1, 1)

    model = LogisticRegression().fit(logits(scores), truth.ravel())
    return lambda scores: model.predict_proba(logits(scores))[:, 1].reshape(scores.shape)


def isotonic(scores, truth):
    models = [
        IsotonicRegression(out_of_bounds="clip").fit(*columns)
        for columns in zip(scores.T, truth.T, strict=True)
    ]
    return lambda scores: np.column_stack(
        [model.predict(column) for model, column in zip(models, scores.T, strict=True)]
    )


def test_are_better_than_platt_and_isotonic_on_real_scores(needs_fsdkaggle2019):
    scores = pd.read_csv(needs_fsdkaggle2019 / "scores" / "model1.csv", index_col="fname")
    labels = pd.read_csv(needs_fsdkaggle2019 / "test_post_competition.csv", index_col="fname")
    truth = labels["labels"].loc[scores.index].str.get_dummies(",")[scores.columns].to_numpy()
    scores = scores.to_numpy()
    ours = cross_validated(scores, truth, lambda *args: calibration.fit(*args).probabilities)
    assert ours == pytest.approx(0.0558, abs=0.001)
    for other in (platt, isotonic):
        assert cross_validated(scores, truth, other) > ours + 0.003, other
