"""Global features: the published values, and what np.percentile gives window by window."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solution.features import PERCENTILES, global_features


@pytest.mark.parametrize("n", [300, 1000, 5000, 44100, 131000])
def test_published_values(golden, n):
    reference = golden("global_features")
    values = global_features(reference[f"audio_{n}"].astype(np.float32) / 32768)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, reference[f"features_{n}"], atol=1e-5, rtol=0)


def windows(waveform, num_steps=128):
    """The windows of the published solution, one by one."""
    padded = np.pad(waveform, (0, max(0, num_steps - len(waveform))))
    stride = len(padded) / num_steps
    for step in range(num_steps):
        i = step * stride
        yield padded[max(0, int(i - stride / 2)) : int(i + 1.5 * stride)]


def assert_features_of_each_window(waveform, num_steps=128):
    """Order statistics to the bit, means and deviations to float32's last place or so."""
    values = global_features(waveform, num_steps)
    assert values.dtype == np.float32
    parts = list(windows(waveform, num_steps))
    expected = [[x.max() - x.min(), *np.percentile(x, PERCENTILES)] for x in parts]
    np.testing.assert_array_equal(values[:, 2:], np.array(expected, np.float32))
    exact = [x.astype(np.float64) for x in parts]
    means = [[x.mean(), x.std()] for x in exact]
    np.testing.assert_allclose(values[:, :2], means, rtol=1e-7, atol=1e-14)


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(1, 200))
@settings(deadline=None, max_examples=60)
def test_equal_to_numpy_on_each_window(n, seed, num_steps):
    waveform = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    assert_features_of_each_window(waveform, num_steps)


# Below, at and above the number of windows; windows of one length, and of two.
@pytest.mark.parametrize("n", [1, 127, 128, 129, 191, 192, 255, 256, 257, 12_800, 12_801, 44_100])
def test_equal_to_numpy_at_any_length(n):
    waveform = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    assert_features_of_each_window(waveform)
    assert_features_of_each_window(waveform.astype(np.float64))


@pytest.mark.parametrize("n", [300, 20_000])
def test_equal_to_numpy_with_many_equal_samples_far_from_zero(n):
    steps = np.random.default_rng(0).integers(0, 3, n)
    assert_features_of_each_window((0.75 + steps / 32768).astype(np.float32))


def test_memory_is_that_of_a_few_windows():
    waveform = np.random.default_rng(0).standard_normal(10_000_000).astype(np.float32)
    tracemalloc.start()
    try:
        global_features(waveform)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < waveform.nbytes / 2


def test_a_clip_shorter_than_the_windows_is_padded_with_silence():
    values = global_features(np.ones(5, np.float32))
    assert values.shape == (128, 12)
    np.testing.assert_array_equal(values, global_features(np.pad(np.ones(5, np.float32), (0, 123))))


def test_a_silent_clip_has_features_of_zero():
    np.testing.assert_array_equal(global_features(np.zeros(1000, np.float32)), 0)


def test_refuses_what_is_not_a_waveform():
    with pytest.raises(ValueError, match=r"\(samples,\), got \(2, 10\)"):
        global_features(np.zeros((2, 10)))
