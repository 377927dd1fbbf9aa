"""The dashboard: screens and wizards, a client of the engine and nothing more."""
