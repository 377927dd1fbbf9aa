"""The HTTP interfaces of the cache."""
