"""Entrepot's own API, ``/entrepot/v1``."""
