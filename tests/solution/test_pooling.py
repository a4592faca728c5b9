"""The pooling modes, against window-by-window NumPy."""

import numpy as np
import pytest

from solution.pooling import SharedKernelPooling, pool


def naive_pool(x, over, axis, size, stride):
    """'same' pooling of one axis, window by window; averages leave the padding out."""
    x = np.moveaxis(x, axis, 0)
    n_out = -(-len(x) // stride)
    left = max((n_out - 1) * stride + size - len(x), 0) // 2
    starts = [i * stride - left for i in range(n_out)]
    return np.moveaxis(
        np.stack([over(x[max(0, start) : start + size], axis=0) for start in starts]), 0, axis
    )


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), ((3, 2), (2, 1))])
@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        ("avemax1", [(np.mean, 1), (np.max, 2)]),
        ("avemax2", [(np.mean, 2), (np.max, 1)]),
        ("avemax3", [(np.max, 2), (np.mean, 1)]),
        ("avemax4", [(np.max, 1), (np.mean, 2)]),
        ("max", [(np.max, 1), (np.max, 2)]),
        ("ave", [(np.mean, 1), (np.mean, 2)]),
    ],
)
def test_pooling_modes(mode, steps, size, stride):
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype(np.float32)
    expected = x
    for over, axis in steps:
        one_size, one_stride = (
            value if isinstance(value, int) else value[axis - 1] for value in (size, stride)
        )
        expected = naive_pool(expected, over, axis, one_size, one_stride)
    np.testing.assert_allclose(pool(x, mode, size, stride), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_learned_pooling_is_one_kernel_for_all_channels(size, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((size, size))
    layer = SharedKernelPooling((size, size), (stride, stride))
    layer.build(x.shape)
    layer.set_weights([kernel[..., None, None]])
    totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
    zeros = [(total // 2, total - total // 2) for total in totals]
    padded = np.pad(x, ((0, 0), *zeros, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    expected = np.einsum("btmcij,ij->btmc", windows[:, ::stride, ::stride], kernel)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_learned_pooling_starts_glorot_uniform():
    layer, limit = SharedKernelPooling((100, 100), (2, 2)), 3**0.5 / 100  # fan in = fan out = 100²
    layer.build((None, 200, 200, 8))
    weights = layer.get_weights()[0]
    assert 0.99 * limit < weights.max() <= limit
    assert -limit <= weights.min() < -0.99 * limit
    assert weights.std() == pytest.approx(limit / 3**0.5, rel=0.02)


def test_no_pooling():
    x = np.ones((1, 4, 4, 2), np.float32)
    assert pool(x, "none", 2, 2) is x
