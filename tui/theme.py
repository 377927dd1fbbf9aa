"""The dashboard's own themes, dark and light.

Every colour of text reaches the contrast of 4.5 : 1 of WCAG 2.2, level AA, on every background: of
the screen, of bars and dialogs, and of the row under the cursor.
"""

from __future__ import annotations

from textual.theme import BUILTIN_THEMES, Theme

TEXT_COLOURS = ("foreground", "text-muted", "accent", "success", "warning", "error")
"""Theme variables that colour text."""

BACKGROUND_COLOURS = ("background", "surface", "panel")
"""Theme variables behind text: the screen; bars, dialogs and the current row of a list without the
focus; the current row, and fields."""


def _variables(muted: str, border: str, background: str, thumb: str) -> dict[str, str]:
    return {
        "text-muted": muted,
        # The hint in an empty field. Textual's own is unreadable: 38 % of the text's colour.
        "text-disabled": muted,
        "border": border,
        "scrollbar": thumb,
        "scrollbar-background": background,
        "scrollbar-background-active": background,
        "scrollbar-background-hover": background,
        "scrollbar-corner-color": background,
        "input-cursor-text-style": "reverse",
        "block-cursor-text-style": "none",
    }


DARK = Theme(
    name="entrepot-dark",
    dark=True,
    primary="#7cb7cf",
    secondary="#93a9b4",
    accent="#7cb7cf",
    foreground="#d5dadd",
    background="#12171b",
    surface="#1b2227",
    panel="#27323a",
    success="#93b97a",
    warning="#d9a860",
    error="#e38b82",
    variables=_variables(muted="#929fa8", border="#3a4851", background="#12171b", thumb="#3a4851"),
)
LIGHT = Theme(
    name="entrepot-light",
    dark=False,
    primary="#17586f",
    secondary="#4b6470",
    accent="#17586f",
    foreground="#262d31",
    background="#f8f6f1",
    surface="#eeebe3",
    panel="#e0dbcf",
    success="#3d6425",
    warning="#7a4e04",
    error="#9b2c25",
    variables=_variables(muted="#535c62", border="#bab5a8", background="#f8f6f1", thumb="#bab5a8"),
)


def theme_names() -> list[str]:
    """All themes that can be chosen, the dashboard's own first."""
    return [DARK.name, LIGHT.name, *BUILTIN_THEMES]
