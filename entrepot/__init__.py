"""Entrepot: a self-hosted artifact cache for container registries.

This package is the engine and its command line. It never imports textual, ``tui`` or ``widgets``
(but for the command that opens the dashboard); contracts in ``pyproject.toml`` prove it.
"""

__version__ = "0.1.0"
