"""For programs that talk to a running engine: its client, models, labels and transports."""
