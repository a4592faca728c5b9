"""The 128 x 12 global features: twelve statistics of 128 overlapping windows of the whole clip."""

import numpy as np

PERCENTILES = (0, 1, 25, 30, 50, 60, 75, 99, 100)
N_FEATURES = 3 + len(PERCENTILES)
NUM_STEPS = 128
BLOCK_SAMPLES = 1 << 19  # of windows worked on at once: some 10 MB, or one window of any length


def global_features(waveform: np.ndarray, num_steps: int = NUM_STEPS) -> np.ndarray:
    """Mean, standard deviation, range and nine percentiles of `num_steps` windows.

    With stride = samples / num_steps, window s covers the samples from `s * stride - stride / 2`
    to `s * stride + 1.5 * stride`, cut off at the ends of the clip: each overlaps half of its
    neighbours. Clips of fewer than `num_steps` samples are zero-padded at their end first.

    Parameters
    ----------
    waveform : float (samples,)
        The untrimmed clip.
    num_steps : int
        Number of windows.

    Returns
    -------
    float32 (num_steps, 12): mean, standard deviation, max - min, and the percentiles 0, 1, 25, 30,
    50, 60, 75, 99, 100 with linear interpolation.

    Raises
    ------
    ValueError
        If the waveform is not one-dimensional.

    Notes
    -----
    A window's second half is the next one's first half. So each half is summed and sorted once,
    and the percentiles are found in pairs of sorted halves: the values of `np.percentile`, in a
    fraction of the time. Source of the features: the published solution's preprocessing.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"expected a waveform of shape (samples,), got {waveform.shape}")
    waveform = waveform.astype(np.promote_types(waveform.dtype, np.float32), copy=False)
    if len(waveform) < num_steps:
        waveform = np.pad(waveform, (0, num_steps - len(waveform)))
    stride = len(waveform) / num_steps
    centre = np.arange(num_steps) * stride
    start = np.maximum((centre - stride / 2).astype(int), 0)
    stop = np.minimum((centre + 1.5 * stride).astype(int), len(waveform))
    middle = np.append(start[1:], stop[-1])
    at_once = max(1, int(BLOCK_SAMPLES // stride))
    blocks = [slice(first, first + at_once) for first in range(0, num_steps, at_once)]
    return np.concatenate(
        [_features_of_windows(waveform, start[i], middle[i], stop[i]) for i in blocks]
    )


def _features_of_windows(waveform, start, middle, stop) -> np.ndarray:
    """Features of the windows `waveform[start:stop]`: float32 (windows, 12).

    Each window is taken in two halves, before and from `middle` on; start, middle and stop are
    int (windows,). Halves that several windows share are worked on once.
    """
    # One number for both bounds: np.unique is slow with rows.
    bounds = np.concatenate([start, middle]) * (len(waveform) + 1) + np.concatenate([middle, stop])
    bounds, half_of = np.unique(bounds, return_inverse=True)
    left, right = half_of.reshape(2, -1)  # (windows,) each
    bounds = np.stack(np.divmod(bounds, len(waveform) + 1), axis=1)  # (halves, 2)
    size, mean, squares, ordered = _statistics_of_halves(waveform, bounds)

    n = size[left] + size[right]  # (windows,)
    mean_of_both = (size[left] * mean[left] + size[right] * mean[right]) / n
    between = size[left] * size[right] / n * (mean[left] - mean[right]) ** 2
    variance = (squares[left] + squares[right] + between) / n

    percentiles = _percentiles(ordered, size, left, right)  # (windows, 9)
    features = np.empty((len(start), N_FEATURES), np.float32)
    features[:, 0] = mean_of_both
    features[:, 1] = np.sqrt(variance)
    features[:, 2] = percentiles[:, -1] - percentiles[:, 0]
    features[:, 3:] = percentiles
    return features


def _statistics_of_halves(waveform: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the features need to know of each half window.

    Parameters
    ----------
    waveform : float (samples,)
    bounds : int (halves, 2)
        First sample, and the one after the last.

    Returns
    -------
    size : int (halves,)
    mean, squares : float64 (halves,)
        Mean, and sum of the squared deviations from it.
    ordered : as waveform (halves, longest + 2)
        The samples in ascending order, then infinities, which the search for percentiles meets.
    """
    size = bounds[:, 1] - bounds[:, 0]
    mean, squares = np.zeros(len(size)), np.zeros(len(size))
    ordered = np.empty((len(size), size.max() + 2), waveform.dtype)
    # One by one: a half stays in the processor's cache from its copy to its sorting.
    for row, (first, stop) in enumerate(bounds.tolist()):
        samples = ordered[row, : stop - first]
        samples[:] = waveform[first:stop]
        ordered[row, stop - first :] = np.inf
        deviations = samples.astype(np.float64)
        mean[row] = deviations.sum() / max(stop - first, 1)
        deviations -= mean[row]
        squares[row] = deviations @ deviations
        samples.sort()
    return size, mean, squares, ordered


def _percentiles(ordered, size, left, right) -> np.ndarray:
    """PERCENTILES of windows that are two sorted halves each, with the bits of `np.percentile`.

    Parameters
    ----------
    ordered : float (halves, longest + 2)
    size : int (halves,)
        As `_statistics_of_halves` gives.
    left, right : int (windows,)
        Which halves a window consists of.

    Returns
    -------
    float64 (windows, 9)
    """
    n_left, n_right = size[left, None], size[right, None]  # (windows, 1)
    last = n_left + n_right - 1
    position = np.asarray(PERCENTILES) / 100 * last  # (windows, 9)
    rank = position.astype(int)
    left, right = (half[:, None] * ordered.shape[1] for half in (left, right))  # where they begin
    ordered = ordered.ravel()
    fewest, most = np.maximum(rank - n_right, 0), np.minimum(rank, n_left)
    i = _count_in_left(ordered, left, right, rank, fewest, most)
    j = rank - i
    in_left, in_right = ordered.take(left + i), ordered.take(right + j)
    low = np.minimum(in_left, in_right)
    is_left = in_left < in_right
    high = np.minimum(ordered.take(left + i + is_left), ordered.take(right + j + ~is_left))
    high = np.where(rank < last, high, low)
    difference, weight = high - low, position - rank
    return np.where(weight < 0.5, low + difference * weight, high - difference * (1 - weight))


def _count_in_left(ordered, left, right, rank, fewest, most) -> np.ndarray:
    """How many of each window's `rank` smallest samples are in its left half: int, as `rank`.

    Bisection between `fewest` and `most`, in all windows at once: it is the smallest i for which
    the left half's sample i is not below the right half's sample rank - i - 1.

    left, right : where the halves begin in `ordered`
    """
    while (fewest < most).any():
        middle = (fewest + most) // 2
        more = ordered.take(left + middle) < ordered.take(right + (rank - 1) - middle)
        more &= fewest < most  # where they have met, an index may lie outside its half
        fewest = np.where(more, middle + 1, fewest)
        most = np.where(more, most, middle)
    return fewest
