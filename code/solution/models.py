"""The networks: 9-layer CNNs on log-mels, with a recurrent branch for the global features.

Shapes in comments are those of `v1mix`, without the batch: (time, mel, channels) of 5 s.
"""

import keras
from keras import layers, ops

from config import FRONT_END_SETTINGS, Config
from fast import precision
from fast.layers import Conv2D, FusedBatchNormalization, GlobalAveragePooling2D
from solution.features import N_FEATURES, NUM_STEPS
from solution.pooling import pool

MOMENTUM = 0.85  # of the convolutions' batch norm
MSC_KERNELS = (3, 5, 7)
SQUEEZE = 4


def build_tagger(config: Config, n_classes: int) -> keras.Model:
    """The network of one experiment, not compiled.

    Inputs by name: `audio` (batch, samples), or (batch, frames, n_mels) decibels where
    `config.frontend` is "logmel"; `length` (batch, 1), tens of seconds; `global_feat`
    (batch, 128, 12). Output float32 (batch, n_classes), sigmoid. It is made of three networks,
    which are layers of it: "crop_branch", "clip_branch" and "head".

    ValueError if it starts from waveforms and Keras' backend is not TensorFlow.
    """
    with precision.used(config.precision):
        audio, logmel = front_end(config)
        length = keras.Input((1,), name="length")
        global_feat = keras.Input((NUM_STEPS, N_FEATURES), name="global_feat")
        x = crop_branch(config)(logmel)  # (1024,)
        y = clip_branch(config)(global_feat)  # (128,)
        tags = head(config, n_classes)([x, y, length])
        inputs = {"audio": audio, "length": length, "global_feat": global_feat}
        return keras.Model(inputs, tags, name=config.name.replace(".", "_"))


def front_end(config: Config):
    """The `audio` input, and the log-mel made of it: (batch, frames, n_mels, 1)."""
    if config.frontend == "logmel":
        shape = config.crop_frames, config.n_mels
        audio = keras.Input(shape, name="audio")
        return audio, layers.Reshape((*shape, 1), name="logmel", dtype="float32")(audio)
    require_tensorflow(config)
    # Here, not above: a network that starts from log-mels runs without TensorFlow.
    from solution.time_frequency import Melspectrogram

    audio = keras.Input((config.crop_samples,), name="audio")
    settings = config.values((*FRONT_END_SETTINGS, "trainable_kernel", "trainable_fb"))
    to_logmel = Melspectrogram(sr=settings.pop("sample_rate"), name="melspectrogram", **settings)
    return audio, to_logmel(audio)


def require_tensorflow(config: Config) -> None:
    """ValueError if Keras has another backend: what starts from waveforms takes TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"{config.name} starts from waveforms, which takes TensorFlow: set "
            "KERAS_BACKEND=tensorflow, or let it start from log-mels: frontend='logmel'"
        )


def crop_branch(config: Config) -> keras.Model:
    """The convolutions: the log-mel of one crop (frames, n_mels, 1) -> (1024,)."""
    logmel = keras.Input((config.crop_frames, config.n_mels, 1), name="logmel")  # (441, 64, 1)
    filters = config.scaled_block_filters
    x = _stem(logmel, config)  # (441, 64, 64)
    x = _block(x, "block1", filters[0], config, pool_size=2)  # (221, 32, 96)
    x = _block(x, "block2", filters[1], config, pool_size=2)  # (111, 16, 128)
    x = _block(x, "block3", filters[2], config, pool_size=3)  # (56, 8, 256)
    x = _block(x, "block4", filters[3], config, pool_size=0)  # (56, 8, 512)
    n_frames, n_mels, channels = x.shape[1:]
    shuffle = layers.Reshape((n_frames, n_mels // 2, channels * 2), name="pixel_shuffle")
    x = shuffle(x)  # (56, 4, 1024)
    x = ops.max(x, axis=1)  # (4, 1024), over time
    x = ops.mean(ops.cast(x, "float32"), axis=1)  # (1024,), over mel
    return keras.Model(logmel, x, name="crop_branch")


def clip_branch(config: Config) -> keras.Model:
    """The GRUs: the global features of a whole clip (128, 12) -> (128,)."""
    # In float32: 128 short steps gain nothing from less, and the features span many magnitudes.
    global_feat = keras.Input((NUM_STEPS, N_FEATURES), name="global_feat")  # (128, 12)
    x = layers.BatchNormalization(momentum=0.99, name="global_norm", dtype="float32")(global_feat)
    for name in ("global_gru1", "global_gru2"):
        gru = layers.GRU(config.gru_units, return_sequences=True, dtype="float32")
        x = layers.Bidirectional(gru, merge_mode="sum", name=name, dtype="float32")(x)  # (128, 128)
    x = ops.max(x, axis=1)  # (128,), over the windows
    return keras.Model(global_feat, x, name="clip_branch")


def head(config: Config, n_classes: int) -> keras.Model:
    """What crop branch and clip branch found, and the length of the clip -> (n_classes,)."""
    sizes = 2 * config.scaled_block_filters[-1], config.gru_units, 1  # 1024, 128, 1
    inputs = [keras.Input((size,)) for size in sizes]
    # What it is not to see becomes zeros, so that networks keep their shapes.
    sees = True, config.global_features, config.clip_length
    # (1024,), (128,) and (1,)
    seen = [part if sees else 0.0 * part for part, sees in zip(inputs, sees, strict=True)]
    x = layers.Concatenate(name="concatenate", dtype="float32")(seen)  # (1153,)
    tags = layers.Dense(n_classes, activation="sigmoid", dtype="float32", name="tags")(x)
    return keras.Model(inputs, tags, name="head")


def _stem(x, config: Config):
    filters, options = config.stem_filters, {"padding": "same", "use_bias": False}
    if config.stem == "plain":
        x = Conv2D(filters, 3, name="stem_conv", **options)(x)
    else:
        scales = [
            Conv2D(filters // 2, size, name=f"stem_conv{size}x{size}", **options)(x)
            for size in MSC_KERNELS
        ]
        x = layers.Concatenate(name="stem_scales")(scales)  # (441, 64, 96)
    return _norm_relu(x, "stem", config)


def _block(x, name: str, filters: int, config: Config, pool_size: int):
    """Two conv units, the second one halving time and mel unless `pool_size` is 0.

    `cat` leads the pooled output of the first unit past the second.
    """
    first, second = config.pooling if pool_size else ("none", "none")
    x = _conv_unit(x, f"{name}a", filters, config)
    x = highway = pool(x, first, size=3, stride=1)
    x = _conv_unit(x, f"{name}b", filters, config)
    if config.cat:
        x = layers.Concatenate(name=f"{name}_highway")([highway, x])  # 2 * filters channels
        x = Conv2D(filters, 1, name=f"{name}_conv1x1")(x)
    return pool(x, second, pool_size, stride=2)


def _conv_unit(x, name: str, filters: int, config: Config):
    x = Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    return _norm_relu(x, name, config)


def _norm_relu(x, name: str, config: Config):
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
