"""The HTTP faces of the cache."""
