"""Speaking to a source registry."""
