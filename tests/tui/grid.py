"""What a person sees of a Textual application, as text. The only place in the tests that uses a private name of Textual."""

from __future__ import annotations

from typing import Any

from textual.app import App


def lines(app: App[Any]) -> list[str]:
    """The lines of the screen, without blanks at their ends."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def grid(app: App[Any]) -> str:
    """The whole screen."""
    return "\n".join(lines(app))
