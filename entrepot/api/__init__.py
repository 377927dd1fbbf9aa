"""Client, models, labels and transports for programs that use a running engine."""
