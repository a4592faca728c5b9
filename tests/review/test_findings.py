"""What is called confused, doubtful, hard or reliable, on scores that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from review import findings
from review.findings import Scored

CLASSES = ["Bark", "Meow", "Purr"]


def scored(truth, probabilities, split="curated", scores=None):
    truth, probabilities = np.array(truth), np.array(probabilities, float)
    fnames = [f"{split}{i}.wav" for i in range(len(truth))]
    scores = probabilities if scores is None else scores
    return Scored(split, fnames, np.arange(len(truth)), truth, scores, probabilities)


@pytest.fixture
def clips():
    """Two clips of each class that are heard, then what each test wants to find."""
    return [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2, [[0.8, 0, 0], [0, 0.8, 0], [0, 0, 0.8]] * 2


def test_confusions_count_the_clips_in_which_another_class_ranks_above():
    truth = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    scores = [[0.2, 0.9, 0.3], [0.5, 0.1, 0.6], [0.1, 0.9, 0.0], [0.1, 0.9, 0.3]]
    found = findings.confusions(scored(truth, scores), CLASSES)
    assert found == [[("Purr", 2), ("Meow", 1)], [], []]  # Meow is a label of the third


def test_a_label_is_doubted_where_another_class_is_heard_instead(clips):
    truth, probabilities = clips
    table = findings.suspects(
        [scored([*truth, [1, 0, 0]], [*probabilities, [0.1, 0, 0.97]])], CLASSES
    )
    (row,) = table.itertuples()
    assert (row.fname, row.split, row.label) == ("curated6.wav", "curated", "Bark")
    assert row.instead == "Purr"
    assert row.why == "sounds like Purr (97 %), not Bark (10 %)"


def test_a_class_that_is_heard_beside_the_labels_is_forgotten(clips):
    truth, probabilities = clips
    table = findings.suspects(
        [scored([*truth, [1, 0, 0]], [*probabilities, [0.9, 0.95, 0]])], CLASSES
    )
    (row,) = table.itertuples()
    assert (row.label, row.instead) == ("Meow", "")
    assert row.why == "sounds like Meow (95 %), which is not among its labels"


def test_what_is_less_likely_than_not_casts_no_doubt(clips):
    truth, probabilities = clips
    faint = np.array([*probabilities, [0.01, 0, 0.97]]) / 2
    assert findings.suspects([scored([*truth, [1, 0, 0]], faint)], CLASSES).empty


def test_the_likeliest_come_first_split_by_split(clips):
    truth, probabilities = clips
    truth = [*truth, [1, 0, 0], [1, 0, 0]]
    probabilities = [*probabilities, [0.3, 0, 0.9], [0.0, 0, 0.97]]
    both = [scored(truth, probabilities), scored(truth, probabilities, "noisy")]
    table = findings.suspects(both, CLASSES)
    assert list(table["fname"]) == ["curated7.wav", "curated6.wav", "noisy7.wav", "noisy6.wav"]


def test_most_wrong_labels_are_found_and_few_right_ones_doubted():
    """A good ensemble, and labels of which every tenth is another."""
    rng = np.random.default_rng(0)
    real = rng.integers(0, 10, 1000)
    told = np.where(rng.random(1000) < 0.1, (real + 1) % 10, real)
    heard = np.clip(np.eye(10)[real] * 0.9 + rng.uniform(0, 0.3, (1000, 10)) ** 2, 0, 1)
    table = findings.suspects([scored(np.eye(10)[told], heard)], [*"abcdefghij"])
    assert (real != told)[table["row"]].mean() > 0.95
    assert len(set(table["row"])) > 0.9 * (real != told).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 90), st.integers(1, 300))
def test_whatever_the_scores_at_most_sixty_clips_each_once(seed, n_classes, n_clips):
    rng = np.random.default_rng(seed)
    classes = [f"class {i}" for i in range(n_classes)]
    truth = rng.random((n_clips, n_classes)) < 1.5 / n_classes
    known = [scored(truth, rng.random(truth.shape), split) for split in ("curated", "noisy")]
    doubted = findings.suspects(known, classes)
    found = findings.remarkable(known[0], doubted, classes, np.arange(n_classes))
    assert len(found) <= findings.MOST_CLIPS
    assert all(found.values())
    hardest = sum("hardest" in why for why in found.values())
    assert hardest >= min(truth.any(axis=0).sum(), 24) or len(found) < findings.MOST_CLIPS


def test_the_surest_and_wrong_comes_first_and_the_hardest_of_each_class_is_there(clips):
    truth, probabilities = clips
    known = scored([*truth, [1, 0, 0]], [*probabilities, [0.1, 0.99, 0]])
    doubted = findings.suspects([known], CLASSES)
    found = findings.remarkable(known, doubted, CLASSES, np.arange(3))
    why = found["curated", 6]
    assert why["surest"] == "Meow 99 %, which is not among its labels"
    assert set(why) == {"surest", "curated", "hardest"}  # each clip once
    assert list(found) == [("curated", 6), ("curated", 1), ("curated", 2)]


def test_the_surest_is_what_has_the_highest_probability(clips):
    """Whatever the scores: probabilities, which take the class into account, are what is shown."""
    truth, probabilities = clips
    known = scored(
        [*truth, [1, 0, 0], [1, 0, 0]],
        [*probabilities, [0.9, 0.4, 0], [0.4, 0.9, 0]],
        scores=np.array([*probabilities, [0.1, 0.2, 0], [0.2, 0.1, 0]]),
    )
    found = findings.remarkable(known, findings.suspects([], CLASSES), CLASSES, np.arange(3))
    assert [row for (_, row), why in found.items() if "surest" in why] == [7]


def test_all_doubted_labels_of_a_clip_are_shown_though_others_are_doubted_more(clips):
    truth, probabilities = clips
    truth = [*truth, [1, 1, 0], *[[1, 0, 0]] * 20]
    probabilities = [*probabilities, [0.01, 0.3, 0.97], *[[0.05, 0, 0.97]] * 20]
    known = scored(truth, probabilities)
    found = findings.remarkable(known, findings.suspects([known], CLASSES), CLASSES, np.arange(3))
    said = found["curated", 6]["curated"]
    assert (
        said == "sounds like Purr (97 %), not Bark (1 %); sounds like Purr (97 %), not Meow (30 %)"
    )
    assert sum("curated" in why for why in found.values()) == findings.MOST_OF_A_GROUP
