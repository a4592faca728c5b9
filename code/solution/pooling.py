"""The pooling modes: over squares, over time and mel one after the other, or learned."""

import keras
from keras import layers, ops

from solution.logmel import same_padding


def pool(x, mode: str, size: int | tuple[int, int], stride: int | tuple[int, int]):
    """Pool (batch, time, mel, channels) with 'same' padding.

    mode : "max", "ave": square windows. "avemax1": average over time, then max over mel; "avemax2":
        average over mel, then max over time; "avemax3": max over mel, then average over time;
        "avemax4": max over time, then average over mel. "conv": one learned kernel for all
        channels. "none": nothing.
    size, stride : of the windows, int or (time, mel); "conv" takes one stride for both axes
    """
    size, stride = ((value, value) if isinstance(value, int) else value for value in (size, stride))
    ave, peak, both = AveragePooling2D, layers.MaxPooling2D, (size, stride)
    # A size and stride of 1 leave an axis as it is.
    over_time, over_mel = ((size[0], 1), (stride[0], 1)), ((1, size[1]), (1, stride[1]))
    steps = {
        "max": [(peak, both)],
        "ave": [(ave, both)],
        "avemax1": [(ave, over_time), (peak, over_mel)],
        "avemax2": [(ave, over_mel), (peak, over_time)],
        "avemax3": [(peak, over_mel), (ave, over_time)],
        "avemax4": [(peak, over_time), (ave, over_mel)],
        "conv": [(SharedKernelPooling, both)],
        "none": [],
    }
    for pooling, (sizes, strides) in steps[mode]:
        x = pooling(sizes, strides, padding="same")(x)
    return x


class AveragePooling2D(layers.AveragePooling2D):
    """Average pooling of (batch, time, mel, channels), where 'same' padding does not count.

    Keras' layer, but for PyTorch: there it counts the last row twice where the two sides have
    unequal padding.
    """

    def call(self, inputs):
        if keras.backend.backend() != "torch" or self.padding != "same":
            return super().call(inputs)
        sizes = zip(inputs.shape[1:3], self.pool_size, self.strides, strict=True)
        padding = ((0, 0), *(same_padding(*size)[1:] for size in sizes), (0, 0))
        sums, counts = (
            ops.average_pool(ops.pad(values, padding), self.pool_size, self.strides)
            for values in (inputs, ops.ones_like(inputs[:1, :, :, :1]))
        )
        return sums / counts


class SharedKernelPooling(layers.Layer):
    """Pooling by one learned, bias-free kernel that all channels share; at first glorot-uniform.

    Input (batch, time, mel, channels). Pool size and strides are (time, mel), and the two strides
    have to be the same; the padding is "same" or "valid".
    """

    def __init__(self, pool_size, strides, padding="same", **kwargs):
        super().__init__(**kwargs)
        self.pool_size, self.strides, self.padding = tuple(pool_size), tuple(strides), padding

    def build(self, input_shape):
        shape = *self.pool_size, 1, 1
        self.kernel = self.add_weight(shape, initializer="glorot_uniform", name="kernel")

    def call(self, inputs):
        # As a depthwise convolution: the kernel once per channel, (time, mel, channels, 1).
        kernel = ops.repeat(self.kernel, inputs.shape[-1], axis=2)
        return ops.depthwise_conv(inputs, kernel, self.strides, padding=self.padding)
