"""What a score means: probabilities, and the tags that are present, learnt out of fold.

Scores are made to be ranked; those of stackers lie between 0.04 and 0.24. Two logistic regressions
make probabilities of them. The first is Platt scaling with a broken line in the place of a straight
one, the same for all classes. The second starts from its probabilities as beta calibration does
(Kull et al., AISTATS 2017), and adds how many other tags are to be expected in the clip (one that
is alone is likelier than one of many), and an offset for each class. The offsets have a normal
prior: a class of few clips keeps to the others'. A higher score makes its class no less probable.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

SMALLEST = 1e-6  # so that logarithms are finite
LABELS_PER_KNOT, MOST_KNOTS = 100, 8
WIDE = 10.0  # standard deviation of the slopes' prior; that of the classes' offsets is 1
PRIOR_LABELS = 20.0  # of an average class, which count when the threshold of a class is chosen
MOST_CLIPS = 50_000  # that it is learnt from: of 80 classes they take 1.5 GB of memory
CANDIDATES = np.arange(1, 100) / 100  # thresholds


@dataclass(frozen=True, eq=False)
class Calibration:
    """How scores of one kind become probabilities: those of an experiment, or of the ensemble."""

    knots: np.ndarray  # (knots,) logits of scores, rising
    log_odds: np.ndarray  # (knots,) what the first regression makes of them
    slopes: np.ndarray  # (3,) of the second, none below 0
    offsets: np.ndarray  # (classes,)
    thresholds: np.ndarray  # (classes,) of probabilities: the best F1, as `_thresholds` counts

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Of each class to be in each clip: (..., classes), from scores of that shape."""
        common = expit(np.interp(_logit(scores), self.knots, self.log_odds))
        return expit(_features(common) @ self.slopes + self.offsets)

    def present(self, probabilities: np.ndarray) -> np.ndarray:
        """The tags to name, by each class's own threshold: bool (..., classes)."""
        return probabilities >= self.thresholds


def fit(scores: np.ndarray, truth: np.ndarray) -> Calibration:
    """Learn what the scores mean; of more than `MOST_CLIPS` clips, from so many.

    scores : (clips, classes), in [0, 1], of networks, or stackers, that did not learn from the
        clips
    truth : multi-hot (clips, classes)
    """
    if len(scores) > MOST_CLIPS:
        chosen = np.random.default_rng(0).choice(len(scores), MOST_CLIPS, replace=False)
        scores, truth = np.asarray(scores)[chosen], np.asarray(truth)[chosen]
    logits, truth = _logit(scores), np.asarray(truth) > 0
    inner = np.linspace(0, 1, min(int(truth.sum()) // LABELS_PER_KNOT, MOST_KNOTS), endpoint=False)
    inner = np.quantile(logits[truth], inner) if len(inner) else inner
    knots = np.unique([logits.min(), *inner, logits.max()])
    # How far along each piece of the line a score is, from 0 to 1.
    pieces = np.clip((logits[..., None] - knots[:-1]) / np.diff(knots), 0, 1)
    rises, (start, *_) = _regression(pieces, truth, per_class=False)
    log_odds = start + np.append(0, np.cumsum(rises))
    features = _features(expit(np.interp(logits, knots, log_odds)))
    slopes, offsets = _regression(features, truth, per_class=True)
    thresholds = _thresholds(expit(features @ slopes + offsets), truth)
    return Calibration(knots, log_odds, slopes, offsets, thresholds)


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST))


def _features(probabilities: np.ndarray) -> np.ndarray:
    """Two that grow with the class's own probability, and one with fewer other tags: (..., 3)."""
    others = probabilities.sum(axis=-1, keepdims=True) - probabilities
    parts = probabilities, 1 - probabilities, others
    one, minus, rest = (np.log(np.maximum(part, SMALLEST)) for part in parts)
    return np.stack([one, -minus, -rest], axis=-1)


def _regression(
    features: np.ndarray, truth: np.ndarray, per_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (features,), the same for all classes and none below 0, and offsets (classes,)."""
    n_clips, n_classes, n_features = features.shape
    rows = features.reshape(n_clips * n_classes, n_features)
    # Half a label and half of none, at the mean: neither all nor nothing is certain.
    rows = np.vstack([rows, [rows.mean(axis=0)] * 2])
    labels = np.append(truth.ravel(), [True, False])
    weights = np.append(np.ones(truth.size), [0.5, 0.5])
    one_hot = scipy.sparse.identity(n_classes) * float(per_class)
    classes = scipy.sparse.kron(np.ones((n_clips, 1)), one_hot, format="csr")
    classes.resize(len(rows), n_classes)
    used = np.ones(n_features)
    while True:
        model = LogisticRegression(solver="newton-cg", tol=1e-6, max_iter=1000)
        columns = scipy.sparse.hstack([rows * used * WIDE, classes], format="csr")
        model.fit(columns, labels, sample_weight=weights)
        slopes, offsets = np.split(model.coef_[0], [n_features])
        if (slopes >= 0).all():
            return slopes * WIDE, offsets + model.intercept_
        used *= slopes >= 0  # as Kull et al. do


def _thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where each class, with some labels of an average one, has its best F1: (classes,)."""
    said = [probabilities >= candidate for candidate in CANDIDATES]
    counts = np.array([[one.sum(axis=0), (one & truth).sum(axis=0)] for one in said], float)
    labels = truth.sum(axis=0)  # (classes,); counts: (candidates, 2, classes)
    share = PRIOR_LABELS / max(labels.sum(), 1)
    said, right = np.moveaxis(counts + share * counts.sum(axis=-1, keepdims=True), 1, 0)
    return CANDIDATES[np.argmax(right / (said + labels + PRIOR_LABELS), axis=0)]


# --- how good they are ----------------------------------------------------------------------------


def reliability(
    probabilities: np.ndarray, truth: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of what is true, and number, in bins of equal width: (bins,) each.

    Of all entries of two arrays of one shape. Empty bins have 0.
    """
    probabilities, truth = np.ravel(probabilities), np.ravel(truth) > 0
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, values, bins) for values in (probabilities, truth))
    mean, share = (total / np.maximum(count, 1) for total in sums)
    return mean, share, count


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance between probability and share of what is true, in bins of equal width.

    Naeini et al., AAAI 2015. Of (clips, classes) it is pooled over both, where most entries are
    surely none: look at that of `top_label`, too.
    """
    mean, share, count = reliability(probabilities, truth)
    return float(np.average(np.abs(mean - share), weights=count))


def top_label(probabilities: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each clip's most probable tag: its probability, and is it one of the labels: (clips,)."""
    best = np.argmax(probabilities, axis=-1)[:, None]
    return tuple(np.take_along_axis(one, best, axis=-1)[:, 0] for one in (probabilities, truth))
