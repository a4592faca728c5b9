"""Keras' layers, made faster."""

import math

import keras

from fast import gpus

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    @tf.custom_gradient
    def _convolution(inputs, kernel):
        """Stride 1, 'same' padding: (batch, time, mel, channels) -> (batch, time, mel, filters)."""

        def gradients(upstream):
            of_inputs = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), 1)
            return of_inputs, _kernel_gradient(inputs, upstream, kernel.shape)

        return tf.nn.conv2d(inputs, kernel, 1, "SAME"), gradients


# Below these, TensorFlow's own gradient of a convolution's kernel is as fast as matrix products.
FEWEST_CHANNELS, FEWEST_POSITIONS = 32, 1024


class Conv2D(keras.layers.Conv2D):
    """Keras' convolution of (batch, time, mel, channels), trained faster on a CPU in float32.

    There the gradient of the kernel, half of a training step as TensorFlow computes it, becomes
    matrix products. Where that would not pay, and on GPUs and other backends, it *is* Keras' layer.
    """

    def convolution_op(self, inputs, kernel):
        if self._is_plain() and _products_pay(inputs):
            return _convolution(inputs, tf.convert_to_tensor(kernel))
        return super().convolution_op(inputs, kernel)

    def _is_plain(self) -> bool:
        steps = *self.strides, *self.dilation_rate, self.groups
        return self.padding == "same" and set(steps) == {1} and self.kernel_size != (1, 1)


def _products_pay(inputs) -> bool:
    return (
        inputs.dtype == "float32"
        and inputs.shape[-1] >= FEWEST_CHANNELS
        and math.prod(inputs.shape[1:3]) >= FEWEST_POSITIONS
        and keras.backend.backend() == "tensorflow"
        and not gpus.capabilities()
    )


def _kernel_gradient(inputs, upstream, kernel_shape):
    """Gradient of a convolution's kernel: a matrix product for each of its positions, clip by clip.

    With as many zeros around a clip as the kernel reaches beyond it, a shift in time and mel is
    one shift of all positions in their order in memory, and nothing is copied but the padding.
    """
    height, width, channels, filters = kernel_shape  # in time and mel
    row = inputs.shape[2] + width - 1  # positions from one frame to the next
    # One row of zeros more than that, for what the last shifts lay beyond the end.
    around_inputs = (((height - 1) // 2, height // 2 + 1), ((width - 1) // 2, width // 2), (0, 0))
    around_upstream = ((0, 0), (0, width - 1), (0, 0))

    def of_clip(clip):
        x = tf.reshape(tf.pad(inputs[clip], around_inputs), (-1, channels))  # (positions, channels)
        dy = tf.reshape(tf.pad(upstream[clip], around_upstream), (-1, filters))
        shifts = [i * row + j for i in range(height) for j in range(width)]
        # (height * width, channels, filters)
        return tf.stack([tf.matmul(x[s : s + dy.shape[0]], dy, transpose_a=True) for s in shifts])

    def add(clip, total):
        return clip + 1, total + of_clip(clip)

    start = 0, tf.zeros((height * width, channels, filters))
    _, total = tf.while_loop(
        lambda clip, _: clip < tf.shape(inputs)[0], add, start, parallel_iterations=1
    )
    return tf.reshape(total, kernel_shape)


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of (batch, time, mel, channels) by TensorFlow's fused kernel.

    The same result as `keras.layers.BatchNormalization`, whose training pass takes several times as
    long on a CPU; on other backends it *is* that layer. The moving variance takes the unbiased
    variance of the batch on all of them, as that kernel does.
    """

    def call(self, inputs, training=None):
        if keras.backend.backend() != "tensorflow":
            return self._call_elsewhere(inputs, training)
        # (batch, time, mel, channels); scale, offset and statistics stay float32
        training = bool(training and self.trainable)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.cast(self.moving_mean, tf.float32),
            variance=tf.cast(self.moving_variance, tf.float32),
            epsilon=self.epsilon,
            exponential_avg_factor=1 - self.momentum,
            is_training=training,
        )
        if training:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs

    def _call_elsewhere(self, inputs, training):
        kept = self.moving_variance * self.momentum
        outputs = super().call(inputs, training=training)
        if training and self.trainable:
            n = math.prod(inputs.shape[:-1])
            self.moving_variance.assign(kept + (self.moving_variance - kept) * n / max(n - 1, 1))
        return outputs


class GlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """The mean over time and mel: Keras' layer, but for maps in bfloat16 on TensorFlow.

    Keras makes float32 copies of such maps, on the way back too. Sums are in float32 either way;
    of float16 they would not be on CPUs.
    """

    def call(self, inputs):
        if keras.backend.backend() != "tensorflow" or inputs.dtype != "bfloat16":
            return super().call(inputs)

        @tf.custom_gradient
        def mean(inputs):
            def gradient(upstream):
                n = math.prod(inputs.shape[1:3])
                slope = tf.cast(tf.cast(upstream, tf.float32) / n, inputs.dtype)
                slope = tf.reshape(slope, (-1, 1, 1, inputs.shape[-1]))
                return tf.broadcast_to(slope, tf.shape(inputs))

            return tf.reduce_mean(inputs, (1, 2), keepdims=self.keepdims), gradient

        return mean(inputs)
