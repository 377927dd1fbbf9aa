"""The heart: what happens when somebody asks for a manifest or a blob."""
