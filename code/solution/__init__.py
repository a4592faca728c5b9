"""What was published: arrays in, arrays out; knows no file."""

import fast  # noqa: F401 (before librosa)
