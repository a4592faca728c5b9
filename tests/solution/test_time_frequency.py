"""The Melspectrogram layer against the published layer's values, argument by argument."""

import inspect

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
    ("arguments", "todays"),
    [
        ({"fmin": 200.0, "fmax": 8000.0}, {}),
        ({"htk": True}, {}),
        ({"n_mels": 40}, {}),
        ({"norm": None}, {}),
        ({"norm": 1}, {"norm": "slaney"}),  # librosa 0.6's names
        ({"norm": np.inf}, {"norm": None}),
    ],
)
def test_filterbank_arguments_are_librosas(audio, arguments, todays):
    power = Melspectrogram(return_decibel_melgram=False, padding="valid", **arguments)(audio[:1])
    names = {"norm": "slaney", "n_mels": 64, **arguments, **todays}
    reference = librosa.feature.melspectrogram(
        y=audio[0], sr=44100, n_fft=1024, hop_length=500, center=False, **names
    )
    np.testing.assert_allclose(power[0, ..., 0], reference.T, rtol=1e-3, atol=1e-6)


@pytest.fixture(params=["channels_last", "channels_first"])
def global_format(request):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(request.param)
    yield request.param
    keras.config.set_image_data_format(before)


@pytest.mark.parametrize("image_data_format", ["default", "channels_last", "channels_first"])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_channels_as_in_kapre(audio, global_format, image_data_format, trainable, n_channels):
    layer = Melspectrogram(
        return_decibel_melgram=False,
        image_data_format=image_data_format,
        trainable_kernel=trainable,
    )
    sound = audio[:4].reshape(-1, n_channels, audio.shape[1])
    powers = layer(sound)
    assert powers.shape == layer.compute_output_shape(sound.shape)
    first = global_format if image_data_format == "default" else image_data_format
    if first == "channels_first":
        powers = np.moveaxis(powers, 1, 3)  # (batch, n_mels, frames, channels)
    for channel in range(n_channels):
        alone = layer(sound[:, channel])
        assert alone.shape == (len(sound), 1 + (sound.shape[-1] - 1) // 500, 64, 1)
        np.testing.assert_allclose(
            np.swapaxes(powers[..., channel], 1, 2), alone[..., 0], rtol=1e-4, atol=1e-6
        )


def test_the_loudest_of_all_channels_is_at_0_decibels(audio):
    stereo = np.stack([audio[0], 0.01 * audio[0]])[None]  # the second 40 dB below
    decibels = Melspectrogram(image_data_format="channels_first")(stereo)
    np.testing.assert_allclose(np.max(decibels, axis=(0, 2, 3)), [0, -40], atol=0.01)


def test_half_a_window_is_the_hop_of_none(audio):
    layer = Melspectrogram(n_dft=512, n_hop=None)
    np.testing.assert_array_equal(layer(audio), Melspectrogram(n_dft=512, n_hop=256)(audio))


def test_decibels_before_the_mel_matrix(audio):
    arguments = {"return_decibel_spectrogram": True, "return_decibel_melgram": False}
    mel = Melspectrogram(padding="valid", **arguments)(audio[:1])
    power = np.abs(librosa.stft(audio[0], n_fft=1024, hop_length=500, center=False)) ** 2
    decibels = librosa.power_to_db(power, ref=np.max)  # in [-80, 0]
    expected = librosa.filters.mel(sr=44100, n_fft=1024, n_mels=64) @ decibels
    np.testing.assert_allclose(mel[0, ..., 0], expected.T, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "causal"}, "padding must be 'same' or 'valid', got 'causal'"),
        ({"n_dft": 1023}, "n_dft must be an even number above 0, got 1023"),
        ({"n_hop": 0}, "n_hop must be a whole number above 0, or None, got 0"),
        ({"n_mels": 64.5}, "n_mels must be a whole number above 0, got 64.5"),
        ({"sr": 0}, "sr must be above 0, got 0"),
        ({"fmin": 9000, "fmax": 8000}, "fmin must be .* below fmax, here 8000 Hz, got 9000"),
        ({"fmin": 22050}, "below fmax, here 22050 Hz, got 22050"),
        ({"power_melgram": -1}, "power_melgram must be above 0, got -1"),
        ({"norm": 2}, "norm must be 'slaney' .* got 2"),
        ({"image_data_format": "NCHW"}, "'default' or in .*'channels_first'.* got 'NCHW'"),
        ({"power_spectrogram": 1.0}, "power_spectrogram must be 2.0 .*, got 1.0"),
        ({"return_decibel_spectrogram": True}, "must be False for mel decibels .* got True"),
        ({"n_fft": 1024}, "n_fft"),
    ],
)
def test_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        Melspectrogram(**arguments)


@pytest.mark.parametrize("shape", [(), (1000,), (2, 0), (2, 1023), (2, 4410, 2), (2, 1, 4410, 1)])
def test_refuses_inputs_of_other_shapes(shape):
    with pytest.raises(
        ValueError, match=r"expected \(batch, samples\) or .* 1024 samples.* got \("
    ):
        Melspectrogram(padding="valid")(np.zeros(shape, np.float32))


def test_valid_padding_takes_whole_windows_only():
    layer = Melspectrogram(padding="valid", n_dft=256, n_hop=100, n_mels=20)
    assert layer(np.zeros((2, 1000), np.float32)).shape == (2, 8, 20, 1)
    assert layer.compute_output_shape((2, 1000)) == (2, 8, 20, 1)


def test_same_padding_has_one_frame_per_hop_begun():
    layer = Melspectrogram()
    assert layer.compute_output_shape((None, 220500)) == (None, 441, 64, 1)
    assert layer(np.zeros((1, 1001), np.float32)).shape == (1, 3, 64, 1)


@pytest.mark.parametrize("arguments", [{}, {"trainable_kernel": True}])
def test_unknown_length_gives_the_same(audio, arguments):
    layer = Melspectrogram(**arguments)
    for sound in (audio, audio[:6].reshape(3, 2, -1)):
        traced = tf.function(layer, input_signature=[tf.TensorSpec((None,) * sound.ndim)])
        for one in (sound, sound[..., :-1]):  # as many zeros on both sides, and one more right
            np.testing.assert_allclose(traced(one), layer(one), atol=1e-3)


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


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_stays_float32(audio, dtype):
    arguments = {"trainable_fb": True, "trainable_kernel": True}
    expected = Melspectrogram()(audio)
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_floatx(dtype)
    try:
        layers = [Melspectrogram(), Melspectrogram(**arguments)]
        results = [layer(audio.astype("float64")) for layer in layers]
        results.append(layers[0]((audio * 32768).astype("int16")))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert {weight.dtype for weight in layers[1].weights} == {"float32"}
    for decibels in results:
        assert decibels.dtype == "float32"
        np.testing.assert_allclose(decibels, expected, atol=0.01)


@pytest.mark.parametrize("decibel", [True, False])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_gradients_reach_trainable_kernel_and_filterbank(audio, decibel, power):
    layer = Melspectrogram(
        trainable_kernel=True,
        trainable_fb=True,
        power_melgram=power,
        return_decibel_melgram=decibel,
    )
    silence = np.zeros_like(audio[:1])  # its gradient has to be finite, alone and among others
    for waveforms, flows in ((np.concatenate([audio, silence]), True), (silence, False)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(layer(waveforms))
        gradients = tape.gradient(loss, layer.trainable_variables)
        assert len(gradients) == 3
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            assert (np.abs(gradient).max() > 0) == flows


def test_nothing_is_trainable_by_default(audio):
    layer = Melspectrogram()
    layer(audio)
    assert layer.weights == []


def test_saving_and_loading_keeps_arguments_and_trained_weights(tmp_path, audio):
    inputs = keras.Input((44100,))
    arguments = {"n_dft": np.int64(512), "n_hop": None, "sr": 22050, "n_mels": 32, "fmin": 50.0}
    arguments |= {"fmax": 9000.0, "padding": "valid", "power_melgram": 1.0, "htk": True, "norm": 1}
    arguments |= {"trainable_kernel": True, "trainable_fb": True, "return_decibel_melgram": False}
    arguments |= {"image_data_format": "channels_first", "power_spectrogram": 2.0}
    model = keras.Model(inputs, Melspectrogram(**arguments)(inputs))
    names = [weight.name for weight in model.weights]
    assert names == ["real_kernel", "imaginary_kernel", "mel_matrix"]
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.01 * rng.random(w.shape) for w in model.get_weights()])
    model.save(tmp_path / "front_end.keras")
    loaded = keras.models.load_model(tmp_path / "front_end.keras")
    for before, after in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(loaded(audio), model(audio), atol=1e-4)
    layers = [one.layers[1].get_config() for one in (model, loaded)]
    assert layers[0] == layers[1]
    assert set(inspect.signature(Melspectrogram).parameters) <= {*layers[1], "kwargs"}
    assert {name: layers[1][name] for name in arguments} == {**arguments, "n_hop": 256}


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
        silence = logmel.log_mel(np.zeros(5000, np.float32), 44100, 1024, 500, 64)
        assert (silence == logmel.FLOOR_DB).all()
        assert (logmel.mix_powers(silence, silence, 0.7) == logmel.FLOOR_DB).all()

    def test_mixing_adds_powers(self):
        a, b = np.full((2, 2), -20.0), np.full((2, 2), -30.0)
        expected = 10 * np.log10(0.49 * 10**-2 + 0.09 * 10**-3)
        np.testing.assert_allclose(logmel.mix_powers(a, b, 0.7), expected)
