"""Trimming and quantising waveforms."""

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solution import audio


class TestTrim:
    @given(st.integers(1, 40_000), st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0))
    @settings(deadline=None, max_examples=30)
    def test_equals_librosa(self, n, before, after, seed):
        rng = np.random.default_rng(seed)
        sound = rng.standard_normal(n) * 10 ** rng.uniform(-3, 0)
        waveform = np.concatenate([np.zeros(before), sound, 1e-5 * rng.random(after)])
        waveform = waveform.astype(np.float32)
        np.testing.assert_array_equal(audio.trim(waveform), librosa.effects.trim(waveform)[0])

    def test_equals_librosa_in_blocks(self, monkeypatch):
        waveform = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
        waveform *= np.exp(-(np.linspace(-6, 6, 50_000) ** 2)).astype(np.float32)
        monkeypatch.setattr(audio, "HOPS_AT_ONCE", 5)
        trimmed = audio.trim(waveform)
        assert 0 < len(trimmed) < len(waveform)
        np.testing.assert_array_equal(trimmed, librosa.effects.trim(waveform)[0])

    def test_an_all_zero_clip_stays_whole(self):
        assert len(audio.trim(np.zeros(5000, np.float32))) == 5000


class TestInt16:
    def test_sixteen_bit_sources_are_kept_to_the_bit(self):
        steps = np.array([-32768, -1, 0, 1, 32767])
        samples, scale = audio.to_int16((steps / 32768).astype(np.float32))
        np.testing.assert_array_equal(samples, steps)
        assert scale == 1 / 32768

    @pytest.mark.parametrize("peak", [1e-5, 0.3, 1.7, 40.0])
    def test_other_sources_use_the_full_range(self, peak):
        waveform = (peak * np.linspace(-1, 1, 1001)).astype(np.float32)
        samples, scale = audio.to_int16(waveform)
        assert np.abs(samples).max() == 32767
        np.testing.assert_allclose(samples * scale, waveform, atol=peak / 60000)

    def test_a_sample_beyond_int16_is_not_wrapped(self):
        steps = np.array([0, 32768, 65536, -32769])
        samples, scale = audio.to_int16((steps / 32768).astype(np.float32))
        np.testing.assert_allclose(samples * scale, steps / 32768, atol=1e-4)

    def test_one_sample_between_two_steps_rescales_all_blocks(self, monkeypatch):
        monkeypatch.setattr(audio, "BLOCK_SAMPLES", 10)
        waveform = (np.arange(35) / 32768).astype(np.float32)
        waveform[17] += 1e-5
        samples, scale = audio.to_int16(waveform)
        assert samples.dtype == np.int16
        assert np.abs(samples).max() == 32767
        np.testing.assert_allclose(samples * scale, waveform, atol=2e-8)
