"""The log-mel front end as a layer: kapre 0.1's `Melspectrogram`, on the parts of kapre 0.4."""

import inspect
from numbers import Integral

import keras
import numpy as np
import tensorflow as tf
from kapre import STFT, MagnitudeToDecibel

from solution.logmel import DYNAMIC_RANGE_DB, FLOOR_POWER, hann_window, mel_matrix, same_padding


@keras.saving.register_keras_serializable("freesound")
class Melspectrogram(keras.layers.Layer):
    """Waveforms to (decibel) mel spectrograms, with the arguments of kapre 0.1's layer.

    Input (batch, samples): output (batch, frames, n_mels, 1), frames = ceil(samples / n_hop) for
    "same". Input (batch, channels, samples): output as kapre 0.1's, (batch, n_mels, frames,
    channels), or (batch, channels, n_mels, frames) if `image_data_format` is "channels_first".
    Always float32, whatever the type of the input and the global dtype policy.

    Parameters
    ----------
    n_dft : int
        Window and DFT length, samples, an even number. Periodic Hann window.
    n_hop : int, optional
        Samples between frames. None is half a window.
    sr : int
        Sample rate, Hz.
    n_mels : int
        Number of mel bands.
    fmin, fmax : float
        Lowest and highest frequency, Hz. `fmax=None` is the Nyquist frequency.
    padding : {"same", "valid"}
        Zeros at both ends, as in TensorFlow's convolutions, or none.
    power_melgram : float
        2.0 gives mel power; p gives (mel power) ** (p / 2).
    return_decibel_melgram : bool
        10 log10, minus each example's maximum, floored at -80: values in [-80, 0].
    trainable_kernel : bool
        The DFT as two convolutions (cosine and sine times window) whose kernels are weights.
    trainable_fb : bool
        The mel matrix as a weight.
    htk : bool
        The HTK mel scale instead of Slaney's.
    norm : {"slaney", 1, None, inf}
        "slaney": triangles of equal area; None: of height 1. 1 and inf mean the same two, as in
        librosa 0.6, for which kapre 0.1 was written (today's librosa has other norms for them).
    image_data_format : {"default", "channels_first", "channels_last"}
        For inputs with channels. "default": what Keras is set to when the layer is made.
    power_spectrogram : float
        2.0; kapre 0.1's mel layer refuses other values too.
    return_decibel_spectrogram : bool
        The mel matrix applied to decibels in [-80, 0]; without powers and decibels after it.

    Raises
    ------
    ValueError
        If an argument is none of these, or an input has another shape or is too short.
    """

    def __init__(
        self,
        n_dft=1024,
        n_hop=500,
        sr=44100,
        n_mels=64,
        fmin=0.0,
        fmax=None,
        padding="same",
        power_melgram=2.0,
        return_decibel_melgram=True,
        trainable_kernel=False,
        trainable_fb=False,
        htk=False,
        norm="slaney",
        image_data_format="default",
        power_spectrogram=2.0,
        return_decibel_spectrogram=False,
        **kwargs,
    ):
        # Decibels of small powers do not survive half precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.n_dft, self.n_hop = n_dft, n_dft // 2 if n_hop is None else n_hop
        self.sr, self.n_mels, self.fmin, self.fmax = sr, n_mels, fmin, fmax
        self.padding = padding
        self.power_melgram, self.return_decibel_melgram = power_melgram, return_decibel_melgram
        self.trainable_kernel, self.trainable_fb = trainable_kernel, trainable_fb
        self.htk, self.norm = htk, norm
        if image_data_format == "default":
            image_data_format = keras.config.image_data_format()
        self.image_data_format = image_data_format
        self.power_spectrogram = power_spectrogram
        self.return_decibel_spectrogram = return_decibel_spectrogram
        self._check_arguments()
        # TensorFlow takes no integers of NumPy's here.
        self.n_dft, self.n_hop, self.n_mels = int(n_dft), int(self.n_hop), int(n_mels)
        order = {"input_data_format": "channels_first", "output_data_format": "channels_first"}
        self._stft = STFT(n_fft=self.n_dft, hop_length=self.n_hop, **order, dtype="float32")
        self._decibel = MagnitudeToDecibel(
            ref_value=1.0, amin=FLOOR_POWER, dynamic_range=DYNAMIC_RANGE_DB, dtype="float32"
        )

    def _check_arguments(self):
        highest = self.sr / 2 if self.fmax is None else self.fmax
        formats = ("channels_first", "channels_last")
        mel_power = self.power_melgram == 2.0 and not self.return_decibel_melgram
        negative = self.return_decibel_spectrogram and not mel_power  # under a root or logarithm
        for name, holds, expected in (
            ("sr", self.sr > 0, "above 0"),
            ("n_dft", _is_count(self.n_dft) and self.n_dft % 2 == 0, "an even number above 0"),
            ("n_hop", _is_count(self.n_hop), "a whole number above 0, or None"),
            ("n_mels", _is_count(self.n_mels), "a whole number above 0"),
            ("fmin", 0 <= self.fmin < highest, f"at least 0 and below fmax, here {highest:g} Hz"),
            ("padding", self.padding in ("same", "valid"), "'same' or 'valid'"),
            ("power_melgram", self.power_melgram > 0, "above 0"),
            ("norm", self.norm in ("slaney", 1, None, np.inf), "'slaney' (or 1) or None (or inf)"),
            ("image_data_format", self.image_data_format in formats, f"'default' or in {formats}"),
            ("power_spectrogram", self.power_spectrogram == 2.0, "2.0 (see power_melgram)"),
            ("return_decibel_spectrogram", not negative, "False for mel decibels or amplitudes"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def build(self, input_shape):
        bands = {name: getattr(self, name) for name in ("fmin", "fmax", "htk")}
        bands["norm"] = "slaney" if self.norm in ("slaney", 1) else None
        matrix = mel_matrix(self.sr, self.n_dft, self.n_mels, **bands).T  # (n_freq, n_mels)
        if self.trainable_kernel:
            self.real_kernel = self._weight("real_kernel", self._kernel(np.cos))
            self.imaginary_kernel = self._weight("imaginary_kernel", self._kernel(np.sin))
        if self.trainable_fb:
            matrix = self._weight("mel_matrix", matrix)
        self.mel_matrix = matrix
        self.built = True

    def _kernel(self, wave):
        """Hann-windowed cosines or sines of all DFT frequencies: (n_dft, 1, n_freq)."""
        cycles = np.outer(np.arange(self.n_dft), np.arange(self.n_dft // 2 + 1)) / self.n_dft
        window = hann_window(self.n_dft)[:, None]
        return (window * wave(2 * np.pi * cycles))[:, None].astype("float32")

    def _weight(self, name, value):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=value.shape, initializer=initializer)

    def call(self, waveform):
        self._channels(waveform.shape)
        rank = len(waveform.shape)
        waveform = tf.cast(waveform if rank == 3 else waveform[:, None], "float32")
        waveform = self._pad(waveform)  # (batch, channels, samples + padding)
        power = self._power_spectrogram(waveform)  # (batch, channels, frames, n_freq)
        if self.return_decibel_spectrogram:
            power = self._normalised_decibels(power)
        mel = tf.tensordot(power, self.mel_matrix, 1)  # (batch, channels, frames, n_mels)
        if self.power_melgram != 2.0:
            # The floor keeps the gradient of the root finite where there is no sound.
            mel = tf.maximum(mel, FLOOR_POWER**2) ** (self.power_melgram / 2)
        if self.return_decibel_melgram:
            mel = self._normalised_decibels(mel)
        return tf.transpose(mel, self._axes(rank))

    def _normalised_decibels(self, power):
        decibels = self._decibel(power)
        return decibels - tf.reduce_max(decibels, axis=(1, 2, 3), keepdims=True)

    def _pad(self, waveform):
        if self.padding == "valid":
            return waveform
        n_samples, maximum = waveform.shape[-1], max
        if n_samples is None:
            n_samples, maximum = tf.shape(waveform)[-1], tf.maximum
        _, left, right = same_padding(n_samples, self.n_dft, self.n_hop, maximum)
        return tf.pad(waveform, ((0, 0), (0, 0), (left, right)))

    def _power_spectrogram(self, waveform):
        if self.trainable_kernel:
            # Channels are the rows of an image that the kernel does not look beyond.
            waves, strides = waveform[..., None], (1, self.n_hop)
            real = tf.nn.conv2d(waves, self.real_kernel[None], strides, "VALID")
            imaginary = tf.nn.conv2d(waves, self.imaginary_kernel[None], strides, "VALID")
            return real**2 + imaginary**2
        spectrum = self._stft(waveform)  # complex (batch, channels, frames, n_freq)
        return tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2

    def _axes(self, rank):
        """Where each axis of the output is in (batch, channels, frames, n_mels)."""
        if rank == 2:
            return 0, 2, 3, 1
        return (0, 1, 3, 2) if self.image_data_format == "channels_first" else (0, 3, 2, 1)

    def _channels(self, shape):
        """Channels of an input of this shape. ValueError if the layer takes no such input."""
        channels = shape[1] if len(shape) == 3 else 1
        shortest = self.n_dft if self.padding == "valid" else 1
        # More channels than samples are axes taken for each other.
        fewest = max(shortest, channels or 1)
        if len(shape) not in (2, 3) or (shape[-1] is not None and shape[-1] < fewest):
            raise ValueError(
                "expected (batch, samples) or (batch, channels, samples) with at least"
                f" {shortest} samples, and no more channels than samples, got {tuple(shape)}"
            )
        return channels

    def compute_output_shape(self, input_shape):
        channels, n_frames = self._channels(input_shape), None
        if input_shape[-1] is not None:
            starts = input_shape[-1] - (self.n_dft - 1 if self.padding == "valid" else 0)
            n_frames = -(-starts // self.n_hop)
        sizes = (input_shape[0], channels, n_frames, self.n_mels)
        return tuple(sizes[axis] for axis in self._axes(len(input_shape)))

    def get_config(self):
        names = {*inspect.signature(self.__init__).parameters} - {"kwargs"}
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _is_count(value):
    return isinstance(value, Integral) and value > 0
