"""Crops, paddings, smoothing and mixup, against the formulas of the specification."""

import dataclasses
import itertools
import threading

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips import store as clipstore
from clips.prepare import PreparedClip
from config import PREPROCESSING_SETTINGS, Config, Schedule
from conftest import open_writer
from solution import crops, logmel
from solution.crops import Examples
from solution.models import front_end

CROP = 1000
CONFIG = Config(crop_samples=CROP, n_hop=100, batch_size=4, label_smoothing=0.0)
SIZES = [300, 999, 1000, 1001, 2500]


@pytest.fixture
def store(tmp_path):
    """Clip i holds the samples i * 5000 + 1, + 2, ... in units of 1 / 32768."""
    clips = []
    for i, n in enumerate(SIZES):
        samples = (np.arange(1, n + 1) + 5000 * i).astype(np.int16)
        features = np.full((128, 12), i, np.float32)
        clips.append(PreparedClip(samples, 1 / 32768, features))
    with open_writer(tmp_path, CONFIG.values(PREPROCESSING_SETTINGS)) as writer:
        for n, clip in zip(SIZES, clips, strict=True):
            writer.append(f"{n}.wav", clip)
    store = clipstore.ClipStore(tmp_path)
    frames = np.random.default_rng(0).uniform(-90, 0, (sum(-(-n // 100) for n in SIZES), 64))
    store.add_log_mels(frames.astype(np.float16), CONFIG.n_hop)
    return store


@pytest.fixture
def examples(store):
    return Examples(store, np.arange(len(SIZES)), np.eye(len(SIZES), dtype=np.int8))


class TestStarts:
    @given(st.integers(1, 3000), st.integers(0, 2**32))
    def test_random_starts_keep_the_clip_or_the_crop_whole(self, n, seed):
        start = crops.random_start(n, CROP, np.random.default_rng(seed))
        if n > CROP:
            assert 0 <= start < n - CROP
        elif n < CROP:
            assert 0 <= -start < CROP - n
        else:
            assert start == 0

    @pytest.mark.parametrize("n", [CROP - 4, CROP + 4])
    def test_random_starts_are_uniform(self, n):
        rng = np.random.default_rng(0)
        starts = [abs(crops.random_start(n, CROP, rng)) for _ in range(4000)]
        counts = np.bincount(starts, minlength=4)
        assert len(counts) == 4
        assert (np.abs(counts - 1000) < 150).all()


def test_label_smoothing():
    smoothed = crops.smooth_labels(np.array([[0, 1]]), 0.01)
    np.testing.assert_allclose(smoothed, [[0.01, 0.99]])


SCHEDULE = Schedule(10, milestones=(3, 6), mixup_prob=0.0)


def epoch_of(examples, config=CONFIG, epoch=5, schedule=SCHEDULE, part="fold0"):
    """The batches of one epoch."""
    batches = crops.training_batches(examples, config, schedule, part, epoch)
    return list(itertools.islice(batches, -(-len(examples) // config.batch_size)))


def test_an_epoch_has_every_example_once(examples):
    chosen = dataclasses.replace(examples, clips=np.array([0, 2, 3, 4]))
    epoch = epoch_of(chosen, dataclasses.replace(CONFIG, batch_size=3))
    assert sorted(len(labels) for _, labels in epoch) == [1, 3]
    assert sorted(np.concatenate([y for _, y in epoch]).argmax(axis=1)) == [0, 2, 3, 4]
    for inputs, labels in epoch:
        clip = labels.argmax(axis=1)
        assert inputs["audio"].shape == (len(labels), CROP)
        np.testing.assert_array_equal(inputs["global_feat"][:, 0, 0], clip)
        # Every sample is of the clip that the labels name.
        loud = inputs["audio"].max(axis=1) * 32768
        np.testing.assert_array_equal((loud - 1) // 5000, clip)


def test_the_small_last_batch_may_be_anywhere(examples):
    config = dataclasses.replace(CONFIG, batch_size=2)
    schedule = Schedule(30, milestones=(1,), mixup_prob=0.0)
    places = {
        [len(labels) for _, labels in epoch_of(examples, config, epoch, schedule)].index(1)
        for epoch in range(30)
    }
    assert places == {0, 1, 2}


def test_going_on_in_any_epoch_gives_the_same_batches(examples):
    whole = list(crops.training_batches(examples, CONFIG, SCHEDULE, "fold0"))
    assert len(whole) == 10 * 2
    for epoch in (1, 3, 9):
        going_on = list(crops.training_batches(examples, CONFIG, SCHEDULE, "fold0", epoch))
        for (x, y), (x_again, y_again) in zip(whole[2 * epoch :], going_on, strict=True):
            np.testing.assert_array_equal(y, y_again)
            np.testing.assert_array_equal(x["audio"], x_again["audio"])


def test_parts_have_batches_of_their_own(examples):
    (one, _), (other, _) = (epoch_of(examples, part=part)[0] for part in ("fold0", "fold1"))
    assert not np.array_equal(one["audio"], other["audio"])


def test_labels_of_an_epoch_are_smoothed(examples):
    for _, labels in epoch_of(examples, dataclasses.replace(CONFIG, label_smoothing=0.1)):
        np.testing.assert_allclose(
            np.sort(labels, axis=1)[:, [0, -2, -1]], [[0.1, 0.1, 0.9]] * len(labels)
        )


def test_each_epoch_has_an_order_of_its_own(examples):
    orders = {
        tuple(np.concatenate([y for _, y in epoch_of(examples, epoch=epoch)]).argmax(axis=1))
        for epoch in range(5)
    }
    assert len(orders) > 2


class TestMixup:
    sound = np.arange(12, dtype=np.float32).reshape(4, 3)
    labels = np.eye(4, dtype=np.float32)

    def test_mixes_sound_and_labels_by_the_same_permutation_at_a_fixed_rate(self):
        mixed, labels = crops.mixup(self.sound, self.labels, CONFIG, np.random.default_rng(2))
        other = np.random.default_rng(2).permutation(4)
        assert not np.array_equal(other, np.arange(4))
        np.testing.assert_allclose(mixed, 0.7 * self.sound + 0.3 * self.sound[other])
        np.testing.assert_allclose(labels, 0.7 * self.labels + 0.3 * self.labels[other])

    def test_adds_powers_of_log_mels(self):
        config = dataclasses.replace(CONFIG, frontend="logmel")
        decibels = np.random.default_rng(0).uniform(-80, 0, (4, 5, 6))
        mixed, _ = crops.mixup(decibels, self.labels, config, np.random.default_rng(1))
        other = np.random.default_rng(1).permutation(4)
        expected = 0.49 * 10 ** (decibels / 10) + 0.09 * 10 ** (decibels[other] / 10)
        np.testing.assert_allclose(10 ** (mixed / 10), expected)

    def test_at_a_rate_that_is_drawn(self):
        config = dataclasses.replace(CONFIG, mixup_beta=0.5)
        rates = set()
        for seed in range(200):
            mixed, labels = crops.mixup(
                self.sound, self.labels, config, np.random.default_rng(seed)
            )
            np.testing.assert_allclose(mixed, labels @ self.sound, atol=1e-5)
            rates.add(labels[0, 0])
        rates -= {1.0}
        assert len(rates) > 100
        assert np.mean([0.2 < rate < 0.8 for rate in rates]) < 0.55  # Beta(1/2, 1/2): 0.41

    def mixed_share(self, examples, epochs, mixup_prob, milestones=(300, 400)):
        schedule = Schedule(500, milestones=milestones, mixup_prob=mixup_prob)
        mixed = [
            ((labels > 0).sum(axis=1) > 1).any()
            for epoch in epochs
            for _, labels in epoch_of(examples, epoch=epoch, schedule=schedule)
            if len(labels) == 4
        ]
        return np.mean(mixed)

    def test_before_the_first_milestone_only(self, examples):
        assert self.mixed_share(examples, range(250, 300), 1.0) > 0.8
        assert self.mixed_share(examples, range(300, 350), 1.0) == 0

    def test_to_the_end_without_milestones(self, examples):
        assert self.mixed_share(examples, range(450, 500), 1.0, milestones=()) > 0.8

    def test_with_the_given_probability(self, examples):
        # A permutation of four leaves them as they are once in 24 times.
        expected = 0.6 * 23 / 24
        assert self.mixed_share(examples, range(150), 0.6) == pytest.approx(expected, abs=0.12)

    def test_leaves_global_features_and_length_alone(self, examples):
        for inputs, labels in epoch_of(
            examples, epoch=0, schedule=Schedule(1, milestones=(1,), mixup_prob=1.0)
        ):
            clip = labels.argmax(axis=1)  # the one of weight 0.7
            np.testing.assert_array_equal(inputs["global_feat"][:, 0, 0], clip)
            expected = np.array(SIZES)[clip, None] / 441_000
            np.testing.assert_allclose(inputs["length"], expected, rtol=1e-6)


def test_log_mel_inputs_are_normalised_after_the_crop(examples):
    config = dataclasses.replace(CONFIG, frontend="logmel")
    for inputs, _ in epoch_of(examples, config):
        decibels = inputs["audio"]  # (batch, frames, n_mels)
        assert decibels.shape[1:] == (10, 64)
        assert decibels.dtype == np.float32
        np.testing.assert_array_equal(decibels.max(axis=(1, 2)), 0)
        assert decibels.min() >= -80


@given(st.integers(0, 10), st.integers(0, 64), st.integers(0, 2**32))
def test_masks_silence_one_piece_of_frames_and_one_of_mel_bands(masked_frames, masked_mels, seed):
    config = Config(frontend="logmel", masked_frames=masked_frames, masked_mels=masked_mels)
    batch = np.zeros((3, 10, 64), np.float32)
    crops.mask(batch, config, np.random.default_rng(seed))
    for crop in batch:
        frames, mels = (crop == -80).all(axis=1), (crop == -80).all(axis=0)
        np.testing.assert_array_equal(crop, np.where(frames[:, None] | mels, -80, 0))
        for piece, most in ((frames, masked_frames), (mels, masked_mels)):
            assert np.count_nonzero(np.diff(piece, prepend=False, append=False)) <= 2  # one piece
            assert piece.all() or piece.sum() <= most


def test_masks_are_drawn_for_each_crop(examples):
    config = dataclasses.replace(CONFIG, frontend="logmel", masked_mels=32)
    silent = [
        (inputs["audio"] == -80).all(axis=1).sum(axis=1) for inputs, _ in epoch_of(examples, config)
    ]
    assert len(set(np.concatenate(silent))) > 2


def test_each_epoch_has_its_own_reproducible_chance():
    def drawn(part, epoch, **settings):
        config = dataclasses.replace(CONFIG, **settings)
        return crops.random_generator(config, part, epoch).integers(2**62)

    draws = {(part, epoch): drawn(part, epoch) for part in ("fold0", "fold1") for epoch in (0, 1)}
    draws |= {"seed": drawn("fold1", 1, seed=7), "name": drawn("fold1", 1, name="se")}
    assert len(set(draws.values())) == 6
    assert draws["fold1", 1] == drawn("fold1", 1)


def test_clips_come_with_their_own_length_and_features(examples):
    store = examples.store
    for inputs, labels in epoch_of(examples):
        clips = labels.argmax(axis=1)
        np.testing.assert_array_equal(inputs["length"][:, 0], store.lengths[clips])
        np.testing.assert_array_equal(inputs["global_feat"], store.features[clips])


@pytest.mark.parametrize(
    ("n", "starts"),
    [(1500, (0, 250, 500)), (1501, (0, 250, 501)), (1000, (0, 0, 0)), (995, (0, -2, -5))],
)
def test_view_starts(n, starts):
    assert crops.view_starts(n, 1000) == starts
    assert crops.view_starts(n, 1000, 1) == starts[1:2]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"frontend": "logmel"},
        {"htk": True, "norm": None, "fmin": 100.0, "fmax": 9000.0, "n_dft": 2048, "n_mels": 32},
        {"power_melgram": 1.0},
        {"power_melgram": 1.0, "return_decibel_melgram": False},
        {"return_decibel_melgram": False},
    ],
)
def test_views_are_what_the_front_end_makes_of_first_middle_and_last_crop(store, settings):
    config = dataclasses.replace(CONFIG, **settings)
    frontend = config.frontend
    views = crops.Views(store, config)[np.array([4, 0, 3])]
    assert views.shape == (3, 3, 10, config.n_mels)
    assert views.dtype == np.float32
    cut, sizes, length = store.waveform, [2500, 300, 1001], CROP
    if frontend == "logmel":
        cut, sizes, length = store.decibels, [25, 3, 11], 10
    found = [
        cut(clip, start, length)
        for clip, n in zip([4, 0, 3], sizes, strict=True)
        for start in (0, int((n - length) / 2), n - length)
    ]
    found = logmel.normalise(np.stack(found)) if frontend == "logmel" else np.stack(found)
    expected = keras.Model(*front_end(config)).predict_on_batch(found)
    np.testing.assert_allclose(views, expected.reshape(views.shape), rtol=1e-4, atol=1e-3)
    assert np.ptp(views[0], axis=0).max() > 1e-4 * np.ptp(views)  # the views of a long clip differ


def test_views_of_a_front_end_that_is_learned_are_waveforms(store):
    config = dataclasses.replace(CONFIG, trainable_fb=True)
    views = crops.Views(store, config)[:]
    assert views.shape == (5, 3, CROP)
    for number, start in enumerate((0, 750, 1500)):
        np.testing.assert_array_equal(views[4, number], store.waveform(4, start, CROP))


def test_prefetching_keeps_order_and_passes_errors_on():
    assert list(crops.prefetch(range(1, 6))) == [1, 2, 3, 4, 5]

    def failing():
        yield 1
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(crops.prefetch(failing()))


def test_crops_are_read_side_by_side():
    """Where a disk answers late, all of a batch wait once."""
    together = threading.Barrier(4, timeout=30)

    def cut(clip, start, length):
        together.wait()
        return np.full(length, 10 * clip + start)

    found = crops.read(cut, range(8), range(8), 2)  # two times four
    np.testing.assert_array_equal(found, np.repeat(11 * np.arange(8), 2).reshape(8, 2))
