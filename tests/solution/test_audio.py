"""Trimming and quantising waveforms."""

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solution import audio


def published_trim(waveform):
    """librosa 0.6.3's, of frames of the reflected clip."""
    rms = librosa.feature.rms(y=waveform, frame_length=2048, hop_length=512, pad_mode="reflect")[0]
    loud = np.flatnonzero(librosa.power_to_db(rms**2, ref=np.max, top_db=None) > -60)
    return waveform[loud[0] * 512 : (loud[-1] + 1) * 512]


class TestTrim:
    @given(st.integers(1, 40_000), st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0))
    @settings(deadline=None, max_examples=30)
    def test_is_as_published(self, n, before, after, seed):
        rng = np.random.default_rng(seed)
        sound = rng.standard_normal(n) * 10 ** rng.uniform(-3, 0)
        waveform = np.concatenate([np.zeros(before), sound, 1e-5 * rng.random(after)])
        waveform = waveform.astype(np.float32)
        trimmed = audio.trim(waveform)
        assert len(trimmed)
        np.testing.assert_array_equal(trimmed, published_trim(waveform))

    @given(st.integers(1, 3000), st.integers(0, 2999))
    @settings(deadline=None, max_examples=60)
    def test_of_a_short_clip_is_as_published_wherever_it_is_loud(self, n, loud):
        waveform = np.full(n, 1e-4, np.float32)
        waveform[loud % n] = 1
        trimmed = audio.trim(waveform)
        assert len(trimmed)
        np.testing.assert_array_equal(trimmed, published_trim(waveform))

    def test_reflects_the_clip_at_its_edges(self):
        """A faint sound near the start is above -60 dB only with its mirror image."""
        waveform = np.zeros(60_000, np.float32)
        waveform[900:1100], waveform[30_000:40_000] = 0.003, 1
        trimmed = audio.trim(waveform)
        np.testing.assert_array_equal(trimmed, published_trim(waveform))
        assert len(trimmed) > len(librosa.effects.trim(waveform)[0])

    def test_works_in_blocks(self, monkeypatch):
        waveform = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
        waveform *= np.exp(-(np.linspace(-6, 6, 50_000) ** 2)).astype(np.float32)
        monkeypatch.setattr(audio, "HOPS_AT_ONCE", 5)
        trimmed = audio.trim(waveform)
        assert 0 < len(trimmed) < len(waveform)
        np.testing.assert_array_equal(trimmed, published_trim(waveform))

    @pytest.mark.parametrize("n", [0, 1, 5000])
    def test_an_all_zero_clip_stays_whole(self, n):
        assert len(audio.trim(np.zeros(n, np.float32))) == n


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
