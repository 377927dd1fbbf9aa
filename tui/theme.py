"""One palette of our own, calm, dark and light: ink and paper, with the blue of a harbour."""

from __future__ import annotations

import os

from textual.theme import Theme

DARK = Theme(
    name="entrepot-dark",
    dark=True,
    primary="#7cb7cf",
    secondary="#8fa7b3",
    accent="#7cb7cf",
    foreground="#d5dadd",
    background="#12171b",
    surface="#1b2227",
    panel="#27323a",
    success="#93b97a",
    warning="#d9a860",
    error="#df7f76",
    variables={"text-muted": "#84919a", "border": "#3a4851", "input-cursor-text-style": "reverse", "block-cursor-text-style": "none"},
)
LIGHT = Theme(
    name="entrepot-light",
    dark=False,
    primary="#1d6580",
    secondary="#4b6470",
    accent="#1d6580",
    foreground="#262d31",
    background="#f7f5f0",
    surface="#ece8df",
    panel="#dcd7ca",
    success="#47702c",
    warning="#8a5a08",
    error="#a8322a",
    variables={"text-muted": "#687279", "border": "#b9b4a6", "input-cursor-text-style": "reverse", "block-cursor-text-style": "none"},
)


def first_theme() -> str:
    """The theme to begin with. Only Textual's ansi themes send no colour at all under NO_COLOR; the others would turn it into greys."""
    return "ansi-dark" if os.environ.get("NO_COLOR") else DARK.name
