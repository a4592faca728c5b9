"""The log-mel front end as a layer: kapre 0.1's `Melspectrogram`, on the parts of kapre 0.4."""

import keras
import librosa
import numpy as np
import tensorflow as tf
from kapre import STFT, ApplyFilterbank, MagnitudeToDecibel

from solution.logmel import DYNAMIC_RANGE_DB, FLOOR_POWER, same_padding


@keras.saving.register_keras_serializable("freesound")
class Melspectrogram(keras.layers.Layer):
    """Waveforms to (decibel) mel spectrograms, with the arguments of kapre 0.1's layer.

    Parameters
    ----------
    n_dft : int
        Window and DFT length, samples. Periodic Hann window.
    n_hop : int
        Samples between frames.
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
    norm : {"slaney", None} or number
        As in `librosa.filters.mel`. librosa 0.6's `norm=1`, as published, is today's "slaney".

    Input (batch, samples); output (batch, frames, n_mels, 1), frames = ceil(samples / n_hop) for
    "same". Always float32, whatever the global dtype policy.

    Raises
    ------
    ValueError
        If `padding` is neither "same" nor "valid".
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
        **kwargs,
    ):
        # Decibels of small powers do not survive half precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
        self.n_dft, self.n_hop, self.sr = n_dft, n_hop, sr
        self.n_mels, self.fmin, self.fmax = n_mels, fmin, fmax
        self.padding = padding
        self.power_melgram = power_melgram
        self.return_decibel_melgram = return_decibel_melgram
        self.trainable_kernel, self.trainable_fb = trainable_kernel, trainable_fb
        self.htk, self.norm = htk, norm

        self._filterbank_kwargs = {
            "sample_rate": sr,
            "n_freq": n_dft // 2 + 1,
            "n_mels": n_mels,
            "f_min": fmin,
            "f_max": fmax,
            "htk": htk,
            "norm": norm,
        }
        self._stft = STFT(
            n_fft=n_dft, hop_length=n_hop, input_data_format="channels_last", dtype="float32"
        )
        self._filterbank = ApplyFilterbank(
            "mel", self._filterbank_kwargs, data_format="channels_last", dtype="float32"
        )
        self._decibel = MagnitudeToDecibel(
            ref_value=1.0, amin=FLOOR_POWER, dynamic_range=DYNAMIC_RANGE_DB, dtype="float32"
        )

    def build(self, input_shape):
        if self.trainable_kernel:
            shape = (self.n_dft, 1, self.n_dft // 2 + 1)
            for name, wave in (("real", np.cos), ("imaginary", np.sin)):
                kernel = self.add_weight(
                    name=f"{name}_kernel", shape=shape, initializer=_constant(self._kernel(wave))
                )
                setattr(self, f"{name}_kernel", kernel)
        if self.trainable_fb:
            self.mel_matrix = self.add_weight(
                name="mel_matrix",
                shape=(self.n_dft // 2 + 1, self.n_mels),
                initializer=_constant(self._filterbank.filterbank),
            )
        self.built = True

    def _kernel(self, wave):
        """Hann-windowed cosines or sines of all DFT frequencies: (n_dft, 1, n_freq)."""
        cycles = np.outer(np.arange(self.n_dft), np.arange(self.n_dft // 2 + 1)) / self.n_dft
        window = librosa.filters.get_window("hann", self.n_dft, fftbins=True)
        return (window[:, None] * wave(2 * np.pi * cycles))[:, None].astype("float32")

    def call(self, waveform):
        waveform = self._pad(waveform)  # (batch, samples + padding)
        power = self._power_spectrogram(waveform[..., None])  # (batch, frames, n_freq, 1)
        if self.trainable_fb:
            mel = tf.einsum("btfc,fm->btmc", power, self.mel_matrix)  # (batch, frames, n_mels, 1)
        else:
            mel = self._filterbank(power)  # (batch, frames, n_mels, 1)
        if self.power_melgram != 2.0:
            # The floor keeps the gradient of the root finite where there is no sound.
            mel = tf.maximum(mel, FLOOR_POWER**2) ** (self.power_melgram / 2)
        if self.return_decibel_melgram:
            mel = self._decibel(mel)
            mel -= tf.reduce_max(mel, axis=(1, 2, 3), keepdims=True)
        return mel

    def _pad(self, waveform):
        if self.padding == "valid":
            return waveform
        n_samples = waveform.shape[1]
        if n_samples is None:
            n_samples = tf.shape(waveform)[1]
            n_frames = -(-n_samples // self.n_hop)
            total = tf.maximum((n_frames - 1) * self.n_hop + self.n_dft - n_samples, 0)
            left, right = total // 2, total - total // 2
        else:
            _, left, right = same_padding(n_samples, self.n_dft, self.n_hop)
        return tf.pad(waveform, ((0, 0), (left, right)))

    def _power_spectrogram(self, waveform):
        if self.trainable_kernel:
            real = tf.nn.conv1d(waveform, self.real_kernel, self.n_hop, "VALID")
            imaginary = tf.nn.conv1d(waveform, self.imaginary_kernel, self.n_hop, "VALID")
            return (real**2 + imaginary**2)[..., None]
        spectrum = self._stft(waveform)  # complex (batch, frames, n_freq, 1)
        return tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2

    def compute_output_shape(self, input_shape):
        batch, n_samples = input_shape
        if n_samples is None:
            n_frames = None
        elif self.padding == "same":
            n_frames = same_padding(n_samples, self.n_dft, self.n_hop)[0]
        else:
            n_frames = 1 + (n_samples - self.n_dft) // self.n_hop
        return batch, n_frames, self.n_mels, 1

    def get_config(self):
        names = (
            "n_dft n_hop sr n_mels fmin fmax padding power_melgram return_decibel_melgram"
            " trainable_kernel trainable_fb htk norm"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}


def _constant(value):
    return lambda shape, dtype=None: tf.convert_to_tensor(np.reshape(value, shape), dtype)
