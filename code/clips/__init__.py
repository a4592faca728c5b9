"""From the user's files to arrays on disk."""
