"""HTTP plumbing that knows nothing of caches."""
