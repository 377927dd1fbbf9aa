"""The areas of the dashboard, in the order of their number keys.

Their screens are registered in `tui.app.Dashboard.MODES`.
"""

from __future__ import annotations

AREAS = (
    "Overview",
    "Rules",
    "Credentials",
    "Repositories",
    "Pulls",
    "Sources",
    "Events",
    "Readers",
)

SHORT_TITLES = {"Repositories": "Repos"}
"""Titles of the tabs in a terminal of 80 columns, where not all of the long ones fit."""


def mode_of(area: str) -> str:
    """The name of an area's mode in the application: ``rules`` for ``Rules``."""
    return area.lower()
