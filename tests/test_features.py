"""Global features: the published values, and what np.percentile gives window by window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import PERCENTILES, global_features


@pytest.mark.parametrize("n", [300, 1000, 5000, 44100, 131000])
def test_published_values(golden, n):
    reference = golden("global_features")
    features = global_features(reference[f"audio_{n}"].astype(np.float32) / 32768)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, reference[f"features_{n}"], atol=1e-5, rtol=0)


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(1, 200))
@settings(deadline=None, max_examples=30)
def test_equal_to_numpy_on_each_window(n, seed, num_steps):
    waveform = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    features = global_features(waveform, num_steps)
    padded = np.pad(waveform, (0, max(0, num_steps - n)))
    stride = len(padded) / num_steps
    for step in range(num_steps):
        i = step * stride
        window = padded[max(0, int(i - stride / 2)) : int(i + 1.5 * stride)].astype(float)
        expected = [
            window.mean(),
            window.std(),
            window.max() - window.min(),
            *np.percentile(window, PERCENTILES),
        ]
        np.testing.assert_allclose(features[step], expected, atol=1e-6)


def test_a_clip_shorter_than_the_windows_is_padded_with_silence():
    features = global_features(np.ones(5, np.float32))
    assert features.shape == (128, 12)
    np.testing.assert_array_equal(
        features, global_features(np.pad(np.ones(5, np.float32), (0, 123)))
    )


def test_a_silent_clip_has_features_of_zero():
    np.testing.assert_array_equal(global_features(np.zeros(1000, np.float32)), 0)


def test_refuses_what_is_not_a_waveform():
    with pytest.raises(ValueError, match=r"\(samples,\), got \(2, 10\)"):
        global_features(np.zeros((2, 10)))
