"""Rules, credential sets, names and platforms: pure, without any input or output."""
