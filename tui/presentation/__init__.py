"""Pictures of the engine turned into rows and sentences. Pure: no terminal, no clock of its own
(*now* is in seconds since the epoch)."""
