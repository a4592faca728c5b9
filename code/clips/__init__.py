"""From the user's files to arrays on disk."""

import fast  # noqa: F401 (before librosa)
