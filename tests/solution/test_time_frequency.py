"""The Melspectrogram layer against the published layer's values, argument by argument."""

import keras
import librosa
import numpy as np
import pytest
import tensorflow as tf

from solution import logmel
from solution.time_frequency import Melspectrogram


@pytest.fixture
def audio(golden):
    return golden("melspectrogram")["audio"].astype(np.float32) / 32768


@pytest.mark.parametrize("hop", [500, 512])
@pytest.mark.parametrize("arguments", [{}, {"trainable_kernel": True}, {"trainable_fb": True}])
def test_published_decibels(golden, audio, hop, arguments):
    decibels = Melspectrogram(n_hop=hop, **arguments)(audio)
    reference = golden("melspectrogram")[f"logmel_hop{hop}"]
    assert decibels.shape == (*reference.shape, 1)
    np.testing.assert_allclose(decibels[..., 0], reference, atol=0.01, rtol=0)


def test_published_power(golden, audio):
    power = Melspectrogram(return_decibel_melgram=False)(audio)[..., 0]
    reference = golden("melspectrogram")["melpower_hop500"]
    np.testing.assert_allclose(power, reference, rtol=1e-3, atol=1e-5 * reference.max())


def test_power_melgram_is_the_exponent_of_the_amplitude(audio):
    power = Melspectrogram(return_decibel_melgram=False)(audio)
    amplitude = Melspectrogram(return_decibel_melgram=False, power_melgram=1.0)(audio)
    np.testing.assert_allclose(amplitude, np.sqrt(power), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "arguments", [{"fmin": 200.0, "fmax": 8000.0}, {"htk": True}, {"norm": None}, {"n_mels": 40}]
)
def test_filterbank_arguments_are_librosas(audio, arguments):
    power = Melspectrogram(return_decibel_melgram=False, padding="valid", **arguments)(audio[:1])
    names = {"norm": "slaney", "n_mels": 64, **arguments}
    reference = librosa.feature.melspectrogram(
        y=audio[0], sr=44100, n_fft=1024, hop_length=500, center=False, **names
    )
    np.testing.assert_allclose(power[0, ..., 0], reference.T, rtol=1e-3, atol=1e-6)


def test_valid_padding_takes_whole_windows_only():
    layer = Melspectrogram(padding="valid", n_dft=256, n_hop=100, n_mels=20)
    assert layer(np.zeros((2, 1000), np.float32)).shape == (2, 8, 20, 1)
    assert layer.compute_output_shape((2, 1000)) == (2, 8, 20, 1)


def test_same_padding_has_one_frame_per_hop_begun():
    layer = Melspectrogram()
    assert layer.compute_output_shape((None, 220500)) == (None, 441, 64, 1)
    assert layer(np.zeros((1, 1001), np.float32)).shape == (1, 3, 64, 1)


def test_unknown_length_gives_the_same(audio):
    layer = Melspectrogram()
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None))])
    for one in (audio, audio[:, :-1]):  # with as many zeros on both sides, and with one more right
        np.testing.assert_allclose(traced(one), layer(one), atol=1e-4)


@pytest.mark.parametrize(
    ("n", "frames_and_zeros"), [(1, (1, 511, 512)), (501, (2, 511, 512)), (5000, (10, 262, 262))]
)
def test_same_padding_is_that_of_tensorflows_convolutions(n, frames_and_zeros):
    n_frames, left, right = frames_and_zeros
    assert logmel.same_padding(n, 1024, 500) == frames_and_zeros
    x, kernel = np.random.default_rng(0).normal(size=(2, n + 1024))[:, None, :, None]
    x, kernel = x[:, :n], kernel[0, :1024, :, None]
    same = tf.nn.conv1d(x, kernel, 500, "SAME")
    padded = tf.nn.conv1d(np.pad(x, ((0, 0), (left, right), (0, 0))), kernel, 500, "VALID")
    assert same.shape == (1, n_frames, 1)
    np.testing.assert_allclose(same, padded, atol=1e-9)


def test_refuses_unknown_padding():
    with pytest.raises(ValueError, match="'same' or 'valid', got 'causal'"):
        Melspectrogram(padding="causal")


def test_stays_float32_under_a_mixed_precision_policy(audio):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        decibels = Melspectrogram()(audio)
    finally:
        keras.config.set_dtype_policy("float32")
    assert decibels.dtype == "float32"
    np.testing.assert_allclose(decibels, Melspectrogram()(audio), atol=1e-4)


@pytest.mark.parametrize("decibel", [True, False])
def test_gradients_reach_trainable_kernel_and_filterbank(audio, decibel):
    layer = Melspectrogram(
        trainable_kernel=True,
        trainable_fb=True,
        power_melgram=1.0,
        return_decibel_melgram=decibel,
    )
    with tf.GradientTape() as tape:
        # One clip with digital silence in it: its gradient has to be finite as well.
        loss = tf.reduce_mean(layer(np.concatenate([audio, np.zeros_like(audio[:1])])))
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert len(gradients) == 3
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_nothing_is_trainable_by_default(audio):
    layer = Melspectrogram()
    layer(audio)
    assert layer.weights == []


def test_saving_and_loading_keeps_arguments_and_trained_weights(tmp_path, audio):
    inputs = keras.Input((44100,))
    arguments = {"n_hop": 400, "n_mels": 32, "fmin": 50.0, "trainable_kernel": True}
    arguments |= {"htk": True, "norm": None, "padding": "valid", "power_melgram": 1.0}
    model = keras.Model(inputs, Melspectrogram(trainable_fb=True, **arguments)(inputs))
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.01 * rng.random(w.shape) for w in model.get_weights()])
    model.save(tmp_path / "front_end.keras")
    loaded = keras.models.load_model(tmp_path / "front_end.keras")
    for before, after in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(loaded(audio), model(audio), atol=1e-4)
    layers = [one.layers[1].get_config() for one in (model, loaded)]
    assert layers[0] == layers[1]
    assert {name: layers[1][name] for name in arguments} == arguments


class TestLogMelInNumpy:
    """What preprocessing stores is what the layer computes."""

    @pytest.mark.parametrize("hop", [500, 512])
    def test_published_decibels(self, golden, audio, hop):
        stored = np.stack([logmel.log_mel(clip, 44100, 1024, hop, 64) for clip in audio])
        reference = golden("melspectrogram")[f"logmel_hop{hop}"]
        np.testing.assert_allclose(logmel.normalise(stored), reference, atol=0.01, rtol=0)

    @pytest.mark.parametrize("n", [1, 499, 501, 5000, 150_000])
    @pytest.mark.parametrize("hop", [500, 1000, 2000])
    def test_equals_librosa(self, n, hop):
        rng = np.random.default_rng(n)
        # A tone 100 dB above the noise shows the rounding of every band without it.
        waveform = 0.5 * np.sin(0.1 * np.arange(n)) + 1e-5 * rng.standard_normal(n)
        waveform = waveform.astype(np.float32)
        n_frames, left, right = logmel.same_padding(n, 1024, hop)
        power = librosa.feature.melspectrogram(
            y=np.pad(waveform, (left, right)),
            sr=44100,
            n_fft=1024,
            hop_length=hop,
            center=False,
            n_mels=64,
        )
        decibels = logmel.log_mel(waveform, 44100, 1024, hop, 64)
        assert decibels.shape == (n_frames, 64)
        assert decibels.dtype == np.float32
        expected = 10 * np.log10(np.maximum(power, 1e-10)).T
        heard = expected > expected.max() - logmel.DYNAMIC_RANGE_DB
        assert heard.any()
        np.testing.assert_allclose(decibels[heard], expected[heard], atol=1e-3, rtol=0)
        # What lies deeper drowns in float32's rounding, in the layer's spectrum as well.
        np.testing.assert_allclose(decibels, expected, atol=0.1, rtol=0)

    def test_long_clips_go_through_in_blocks(self, monkeypatch, audio):
        whole = logmel.log_mel(audio[0], 44100, 1024, 500, 64)
        monkeypatch.setattr(logmel, "BLOCK_FRAMES", 7)
        np.testing.assert_allclose(logmel.log_mel(audio[0], 44100, 1024, 500, 64), whole, atol=1e-3)

    def test_silence_is_the_floor(self):
        assert (logmel.log_mel(np.zeros(5000, np.float32), 44100, 1024, 500, 64) == -100).all()

    def test_mixing_adds_powers(self):
        a, b = np.full((2, 2), -20.0), np.full((2, 2), -30.0)
        expected = 10 * np.log10(0.49 * 10**-2 + 0.09 * 10**-3)
        np.testing.assert_allclose(logmel.mix_powers(a, b, 0.7), expected)
