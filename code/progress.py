"""Progress bars: they go when the work is done, and are not there where nobody watches."""

from tqdm import tqdm


def bar(label: str, total: int, unit: str = "clip", done: int = 0, **options) -> tqdm:
    """tqdm's bar; `options` are tqdm's own."""
    quiet = {"leave": False, "disable": None}
    return tqdm(desc=label, total=total, unit=unit, initial=done, **quiet, **options)
