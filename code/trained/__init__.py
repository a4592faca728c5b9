"""A trained ensemble in use."""
