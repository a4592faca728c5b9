"""Training in half the memory: feature maps are made again, a few clips at a time, on the way back.

The gradients of a batch need what each layer made of it, 145 MB a clip in `v1mix` as published. But
only batch norm looks beyond one clip, at mean and variance of its input. So these inputs are kept
(but for the first), and the layers between go over the batch a few clips at a time: once forward,
and again for the gradients (after Chen et al., "Training Deep Nets with Sublinear Memory Cost",
2016). Loss and gradients are those of the whole batch.

`tf.recompute_grad` would not do: around batch norm it moves the averages twice a step, and it takes
the whole batch at once, so that the way back needs a unit's maps of all clips.
"""

import itertools
import math

import keras

from fast import precision
from fast.layers import FusedBatchNormalization

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

# So many numbers of a map are worked on at once, and two clips at least: for one, oneDNN chooses
# a convolution that takes twice as long.
NUMBERS_AT_ONCE, FEWEST_AT_ONCE = 2**22, 2


class FrugalNetwork(keras.Model):
    """A network of `models` that trains so in float32 on TensorFlow's CPUs.

    Elsewhere, and for scores, it *is* `keras.Model`: half as wide numbers take half the memory
    anyway, and GPUs want whole batches.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or not self._trains_so():
            return super().call(inputs, training=training, mask=mask)
        front_end, segments, rest = _parts(self)
        maps = [front_end(inputs["audio"], training=True)]
        for segment in segments:
            maps = segment(maps)
        return rest([*maps, inputs["length"], inputs["global_feat"]], training=True)

    def _trains_so(self) -> bool:
        norms = _batch_norms(self.layers)
        return precision.on_tensorflow_cpu() and all(
            norm.compute_dtype == "float32" and norm.trainable for norm in norms
        )


def _batch_norms(layers: list[keras.Layer]) -> list[FusedBatchNormalization]:
    return [layer for layer in layers if isinstance(layer, FusedBatchNormalization)]


def _parts(network: keras.Model) -> tuple[keras.Model, list["_Segment"], keras.Model]:
    """The same layers in parts: the front end, a segment for each batch norm but the last, and
    what comes after those.
    """
    audio, length, global_feat = (
        network.input[name] for name in ("audio", "length", "global_feat")
    )
    to_tags = network.get_layer("concatenate").input[0]
    layers = keras.Model(audio, to_tags).layers  # in their order
    norms = _batch_norms(layers)
    logmel = layers[1].output
    kept = [[logmel], *(_crossing(layers, norm) for norm in norms[1:])]
    segments = [
        _Segment(maps, norm, following)
        for maps, norm, following in zip(kept[:-1], norms[:-1], kept[1:], strict=True)
    ]
    rest = keras.Model([*kept[-1], length, global_feat], network.output)
    return keras.Model(audio, logmel), segments, rest


def _crossing(layers: list[keras.Layer], norm: keras.Layer) -> list[keras.KerasTensor]:
    """What a batch norm and the layers after it take from those before: its own input first."""
    i = layers.index(norm)
    made = {id(layer.output) for layer in layers[:i]}
    taken = itertools.chain(*(keras.tree.flatten(layer.input) for layer in layers[i:]))
    return list({id(x): x for x in taken if id(x) in made}.values())


class _Segment:
    """The layers from some maps, which are kept, through one batch norm to the next kept maps.

    They begin with batch norm, or with the layers that make its input where that is not kept.
    """

    def __init__(self, maps: list, norm: FusedBatchNormalization, following: list):
        self._before = None if maps[0] is norm.input else keras.Model(maps[0], norm.input)
        self._norm = norm
        self._after = keras.Model([norm.output, *maps[1:]], following)
        self._following = following
        self._at_once = max(FEWEST_AT_ONCE, NUMBERS_AT_ONCE // math.prod(norm.input.shape[1:]))

    def __call__(self, maps: list) -> list:
        """From kept maps of a batch in training, each (batch, time, mel, channels), to the next."""
        norm, epsilon = self._norm, self._norm.epsilon
        before = _tensors(self._before.trainable_variables if self._before else [])
        after = _tensors(self._after.trainable_variables)
        gamma, beta = _tensors([norm.gamma, norm.beta])

        first, mean, variance, unbiased = self._with_statistics(maps[0], before)
        norm.keep(mean, unbiased)
        # TensorFlow's kernel gives no gradients with respect to mean and variance. So scale and
        # offset carry them; in value these are gamma and beta: (channels,).
        m, v = tf.stop_gradient(mean), tf.stop_gradient(variance)
        scale = gamma * tf.sqrt((v + epsilon) / (variance + epsilon))
        offset = beta + (m - mean) * gamma * tf.math.rsqrt(v + epsilon)

        def of_clips(maps, before, scale, offset, after):
            # All maps: (clips, time, mel, channels)
            y, *_ = tf.raw_ops.FusedBatchNormV3(
                x=self._input_of_norm(maps[0], before),
                scale=scale,
                offset=offset,
                mean=m,
                variance=v,
                epsilon=epsilon,
                is_training=False,
            )
            following, *_ = self._after.stateless_call(after, [], [y, *maps[1:]], training=True)
            return keras.tree.flatten(following)

        return self._recomputed(of_clips, [first, *maps[1:]], [before, scale, offset, after])

    def _input_of_norm(self, x, weights):
        return self._before.stateless_call(weights, [], x, training=True)[0] if self._before else x

    def _with_statistics(self, x, weights):
        """x itself, and mean, variance and unbiased variance of the input of batch norm."""

        @tf.custom_gradient
        def with_statistics(x, weights):
            channels = self._norm.gamma.shape  # also the shape of mean and variance

            def add(clips, n, mean, squares):  # after Chan, Golub and LeVeque (1979)
                z = self._input_of_norm(x[clips], weights)
                *_, z_mean, z_variance, _ = tf.raw_ops.FusedBatchNormV3(
                    x=z, scale=tf.ones(channels), offset=tf.zeros(channels), mean=[], variance=[]
                )
                n_more = tf.cast(tf.size(z) // channels[0], tf.float32)
                delta, n = z_mean - mean, n + n_more
                # Never a sum of three: TensorFlow adds those in any order, and the last digits of
                # a training would differ from run to run.
                squares += n_more * (z_variance + delta**2 * ((n - n_more) / n))
                return n, mean + delta * (n_more / n), squares

            n, mean, squares = self._loop(add, x, 0.0, tf.zeros(channels), tf.zeros(channels))

            def gradients(dx, d_mean, d_variance, _):
                slope = 2 * d_variance / n
                offset = d_mean / n - slope * mean

                def add(clips, dx, d_weights):
                    inputs = [x[clips], weights]
                    with tf.GradientTape() as tape:
                        tape.watch(inputs)
                        z = self._input_of_norm(*inputs)
                    d_clips, d_more = tape.gradient(z, inputs, z * slope + offset)
                    # In place: dx came from `_recomputed`, for here alone.
                    dx = tf.raw_ops.InplaceAdd(x=dx, i=tf.range(clips.start, clips.stop), v=d_clips)
                    return dx, tf.nest.map_structure(tf.add, d_weights, d_more)

                return self._loop(add, x, dx, tf.nest.map_structure(tf.zeros_like, weights))

            return (x, mean, squares / n, squares / (n - 1)), gradients

        return with_statistics(x, weights)

    def _recomputed(self, function, maps, weights):
        """`function(maps, *weights)`, whose steps are made again where gradients need them."""

        @tf.custom_gradient
        def recomputed(maps, weights):
            n_clips = tf.shape(maps[0])[0]

            def forward(clips, *following):
                made = function([x[clips] for x in maps], *weights)
                return [_with_clips(*pair, clips) for pair in zip(following, made, strict=True)]

            def gradients(*upstream):
                def backward(clips, d_maps, d_weights):
                    inputs = [[x[clips] for x in maps], weights]
                    with tf.GradientTape() as tape:
                        tape.watch(inputs)
                        following = function(inputs[0], *weights)
                    slopes = [dy[clips] for dy in upstream]
                    d_clips, d_more = tape.gradient(following, inputs, slopes)
                    pairs = zip(d_maps, d_clips, strict=True)
                    d_maps = [_with_clips(*pair, clips) for pair in pairs]
                    return d_maps, tf.nest.map_structure(tf.add, d_weights, d_more)

                # Else TensorFlow would take the memory for the gradients of all segments at once.
                with tf.control_dependencies(upstream):
                    d_maps = [_empty(n_clips, x) for x in maps]
                    d_weights = tf.nest.map_structure(tf.zeros_like, weights)
                    return self._loop(backward, maps[0], d_maps, d_weights)

            following = [_empty(n_clips, x) for x in self._following]
            return self._loop(forward, maps[0], *following), gradients

        return recomputed(maps, weights)

    def _loop(self, step, x, *state):
        """`state = step(clips, *state)` for a few clips of the batch x after the other."""
        n_clips = tf.shape(x)[0]

        def next_clips(first, *state):
            end = tf.minimum(first + self._at_once, n_clips)
            return end, *step(slice(first, end), *state)

        # Side by side, they would take twice the memory.
        _, *state = tf.while_loop(
            lambda first, *_: first < n_clips, next_clips, (0, *state), parallel_iterations=1
        )
        return state


def _tensors(variables: list) -> list:
    return [tf.convert_to_tensor(variable) for variable in variables]


def _empty(n_clips, like):
    return tf.raw_ops.Empty(shape=[n_clips, *like.shape[1:]], dtype=like.dtype)


def _with_clips(x, values, clips):
    """A map x of the whole batch, with other values for these clips; x itself is used up by it.

    TensorFlow calls that a copy, but takes the memory of x for it (measured with 2.20).
    """
    return tf.raw_ops.InplaceUpdate(x=x, i=tf.range(clips.start, clips.stop), v=values)
