"""Entrepot: a self-hosted artifact cache for container registries.

The engine lives here. It imports nothing of ``tui`` or ``widgets``, and never textual; import
contracts in ``pyproject.toml`` prove it.
"""

__version__ = "0.1.0"
