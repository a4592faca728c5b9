"""The networks: 9-layer CNNs on log-mels, with a recurrent branch for the global features."""

import keras
from keras import layers, ops

from config import Config
from fast import precision
from fast.layers import (
    AveragePooling2D,
    Conv2D,
    FusedBatchNormalization,
    GlobalAveragePooling2D,
    SharedKernelPooling,
)
from messages import InputError
from solution.features import N_FEATURES, NUM_STEPS

MOMENTUM = 0.85
MSC_KERNELS = (3, 5, 7)
SQUEEZE = 4
# The two poolings of each block, (size, stride); the last block does not pool.
BLOCK_POOLING = (((3, 1), (2, 2)), ((3, 1), (2, 2)), ((3, 1), (3, 2)), (None, None))


def require_backend(configs: list[Config]) -> None:
    """Refuse experiments that Keras' backend cannot run, before work starts.

    Raises
    ------
    InputError
        If one starts from waveforms and the backend is not TensorFlow.
    """
    for config in configs:
        if config.frontend == "waveform" and keras.backend.backend() != "tensorflow":
            raise InputError(
                f"{config.name} starts from waveforms, which takes TensorFlow: set "
                "KERAS_BACKEND=tensorflow, or frontend='logmel' in code/config.py"
            )


def build_tagger(config: Config, n_classes: int) -> keras.Model:
    """The network of one experiment, not compiled.

    Parameters
    ----------
    config : Config
    n_classes : int

    Returns
    -------
    keras.Model
        Inputs by name: `audio` (batch, samples), or (batch, frames, n_mels) decibels where
        `config.frontend` is "logmel"; `length` (batch, 1), tens of seconds; `global_feat`
        (batch, 128, 12). Output float32 (batch, n_classes), sigmoid.

    Raises
    ------
    ValueError
        If a setting of the config is not one that this module knows.
    InputError
        If it starts from waveforms and Keras' backend is not TensorFlow.
    """
    require_backend([config])
    with precision.used(config.precision):
        return _tagger(config, n_classes)


def _tagger(config: Config, n_classes: int) -> keras.Model:
    length = keras.Input((1,), name="length")
    global_feat = keras.Input((NUM_STEPS, N_FEATURES), name="global_feat")
    audio, x = front_end(config)  # (441, 64, 1): (time, mel, channel), in 5 s at hop 500

    x = _stem(x, config)  # (441, 64, 64)
    for block, filters in enumerate(config.scaled_block_filters):
        x = _block(x, filters, BLOCK_POOLING[block], config, f"block{block + 1}")
    # (56, 8, 512)

    n_frames, n_mels, channels = x.shape[1:]
    x = layers.Reshape((n_frames, n_mels // 2, channels * 2), name="pixel_shuffle")(x)
    x = ops.max(x, axis=1)  # (4, 1024), over time
    x = ops.mean(ops.cast(x, "float32"), axis=1)  # (1024,), over mel
    y = _global_branch(global_feat, config)  # (128,)

    x = layers.Concatenate(name="concatenate", dtype="float32")([x, y, length])  # (1153,)
    tags = layers.Dense(n_classes, activation="sigmoid", dtype="float32", name="tags")(x)
    inputs = {"audio": audio, "length": length, "global_feat": global_feat}
    return keras.Model(inputs, tags, name=config.name.replace(".", "_"))


def front_end(config: Config):
    """The `audio` input, and the log-mel made of it: (batch, frames, n_mels, 1)."""
    if config.frontend == "logmel":
        audio = keras.Input((config.crop_frames, config.n_mels), name="audio")
        return audio, layers.Reshape((config.crop_frames, config.n_mels, 1), name="logmel")(audio)
    if config.frontend != "waveform":
        raise ValueError(f"frontend must be 'waveform' or 'logmel', got {config.frontend!r}")
    # Here, not above: a network that starts from log-mels runs without TensorFlow.
    from solution.time_frequency import Melspectrogram

    audio = keras.Input((config.crop_samples,), name="audio")
    to_decibels = Melspectrogram(
        n_dft=config.n_dft,
        n_hop=config.n_hop,
        sr=config.sample_rate,
        n_mels=config.n_mels,
        name="melspectrogram",
    )
    return audio, to_decibels(audio)


def _stem(x, config: Config):
    if config.stem == "plain":
        x = Conv2D(config.stem_filters, 3, padding="same", use_bias=False, name="stem_conv")(x)
    elif config.stem == "msc":
        x = layers.Concatenate(name="stem_scales")(
            [
                Conv2D(
                    config.stem_filters // 2,
                    kernel,
                    padding="same",
                    use_bias=False,
                    name=f"stem_conv{kernel}x{kernel}",
                )(x)
                for kernel in MSC_KERNELS
            ]
        )  # (441, 64, 96)
    else:
        raise ValueError(f"stem must be 'plain' or 'msc', got {config.stem!r}")
    return _norm_relu(x, config, "stem")


def _block(x, filters: int, poolings, config: Config, name: str):
    """Two conv units; `cat` leads the first unit's output past the second."""
    first, second = poolings
    x = highway = pool(_conv_unit(x, filters, config, f"{name}a"), config.pooling[0], first)
    x = _conv_unit(x, filters, config, f"{name}b")
    if config.cat:
        x = layers.Concatenate(name=f"{name}_highway")([highway, x])  # 2 * filters channels
        x = Conv2D(filters, 1, name=f"{name}_conv1x1")(x)
    return pool(x, config.pooling[1], second)


def _conv_unit(x, filters: int, config: Config, name: str):
    x = Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    return _norm_relu(x, config, name)


def _norm_relu(x, config: Config, name: str):
    # `prediction` finds the convolutions of a batch norm by these names.
    x = FusedBatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return _squeeze_excite(x, name) if config.squeeze_excite else x


def _squeeze_excite(x, name: str):
    """Scale each channel by what all channels hold on average (Hu et al., CVPR 2018)."""
    channels = x.shape[-1]
    scale = GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    scale = layers.Dense(channels // SQUEEZE, activation="relu", name=f"{name}_reduce")(scale)
    scale = layers.Dense(channels, activation="sigmoid", name=f"{name}_excite")(scale)
    return layers.Multiply(name=f"{name}_scale")([x, scale])


def pool(x, mode: str, size_and_stride: tuple[int, int] | None):
    """Pool (batch, time, mel, channels) with 'same' padding.

    Parameters
    ----------
    mode : str
        "max", "ave": square windows. "avemax1": average over time, then max over mel; "avemax2":
        average over mel, then max over time; "avemax3": max over mel, then average over time;
        "avemax4": max over time, then average over mel. "conv": one learned kernel for all
        channels. "none": nothing.
    size_and_stride : (int or (time, mel), int or (time, mel)), or None for no pooling

    Raises
    ------
    ValueError
        If the mode is none of these.
    """
    if size_and_stride is None or mode == "none":
        return x
    size, stride = (_pair(value) for value in size_and_stride)
    if mode == "conv":
        return SharedKernelPooling(size, stride)(x)
    over_both, over_time, over_mel = (1, 1), (1, 0), (0, 1)
    ave, peak = AveragePooling2D, layers.MaxPooling2D
    steps = {
        "max": ((peak, over_both),),
        "ave": ((ave, over_both),),
        "avemax1": ((ave, over_time), (peak, over_mel)),
        "avemax2": ((ave, over_mel), (peak, over_time)),
        "avemax3": ((peak, over_mel), (ave, over_time)),
        "avemax4": ((peak, over_time), (ave, over_mel)),
    }
    if mode not in steps:
        raise ValueError(f"pooling must be one of {', '.join(steps)}, conv, none; got {mode!r}")
    for pooling, axes in steps[mode]:
        # A size and stride of 1 leave an axis as it is.
        sizes, strides = (
            tuple(value if chosen else 1 for value, chosen in zip(pair, axes, strict=True))
            for pair in (size, stride)
        )
        x = pooling(sizes, strides, padding="same")(x)
    return x


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _global_branch(x, config: Config):
    # In float32: 128 short steps gain nothing from less, and the features span many magnitudes.
    norm = layers.BatchNormalization(momentum=MOMENTUM, name="global_norm", dtype="float32")
    x = norm(x)  # (128, 12)
    for name in ("global_gru1", "global_gru2"):
        gru = layers.GRU(config.gru_units, return_sequences=True, dtype="float32")
        x = layers.Bidirectional(gru, merge_mode="sum", name=name, dtype="float32")(x)  # (128, 128)
    return ops.max(x, axis=1)  # (128,), over the windows
