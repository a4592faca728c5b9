"""A trained ensemble in use."""

import fast  # noqa: F401 (before librosa)
