"""The engine: its composition and life cycle, and the services that its servers offer."""
