"""Batch norm folded into convolutions: once trained, it is one scale and offset per channel."""

import keras
import numpy as np
from keras import layers


def folded(network: keras.Model) -> keras.Model:
    """A network that gives the same scores without batch norm after convolutions.

    Its convolutions are Keras' own, which TensorFlow fuses with bias and ReLU. Batch norm is folded
    where its input is one convolution, or several of them concatenated; these have no activation,
    and their outputs go nowhere else.
    """
    sources = _normed_convolutions(network)
    normed, names = set().union(*sources.values()), {norm.name for norm in sources}

    def clone(layer):
        if layer in normed:
            return layers.Conv2D.from_config({**layer.get_config(), "use_bias": True})
        return layer.__class__.from_config(layer.get_config())

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in names else layer(*args, **kwargs)

    result = keras.models.clone_model(network, clone_function=clone, call_function=call)
    refold(network, result)
    return result


def refold(network: keras.Model, result: keras.Model) -> None:
    """Bring what `folded` made of a network up to its present weights."""
    sources = _normed_convolutions(network)
    changed = set(sources).union(*sources.values())
    for layer in network.layers:
        if layer.weights and layer not in changed:
            result.get_layer(layer.name).set_weights(layer.get_weights())
    for norm, convolutions in sources.items():
        gamma, beta, mean, variance = norm.get_weights()
        scales = gamma / np.sqrt(variance + norm.epsilon)
        ends = np.cumsum([convolution.filters for convolution in convolutions])[:-1]
        parts = (np.split(array, ends) for array in (scales, beta - mean * scales))
        for convolution, scale, offset in zip(convolutions, *parts, strict=True):
            kernel, *bias = convolution.get_weights()
            weights = [kernel * scale, offset + sum(bias) * scale]
            result.get_layer(convolution.name).set_weights(weights)


def _normed_convolutions(network: keras.Model) -> dict[keras.Layer, list[keras.Layer]]:
    """The convolutions that feed each batch norm, in the order of its channels."""
    makers = {id(layer.output): layer for layer in network.layers}
    sources = {}
    for norm in network.layers:
        if isinstance(norm, layers.BatchNormalization):
            maker = makers.get(id(norm.input))
            parts = maker.input if isinstance(maker, layers.Concatenate) else [norm.input]
            convolutions = [makers.get(id(part)) for part in parts]
            if all(isinstance(layer, layers.Conv2D) for layer in convolutions):
                sources[norm] = convolutions
    return sources
