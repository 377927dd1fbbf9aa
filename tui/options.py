"""The user's options of the dashboard, and the theme that was chosen in it last.

They come from the command line, from ``dashboard.toml``, and from a file of the dashboard's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType, to_builtins

from entrepot.errors import EntrepotError
from entrepot.files import replace_file
from entrepot.toml import TomlDocument, TomlInvalid, convert, nearest, unknown_keys

ANSI_THEMES = ("ansi-dark", "ansi-light")
"""Textual's themes that use the terminal's own colours. Only they send no colour under NO_COLOR;
others would turn into greys."""


class OptionInvalid(EntrepotError):
    """An invalid option of the dashboard."""

    code = "OptionInvalid"


@dataclass(frozen=True, slots=True)
class Options:
    """*theme* is a name, or empty for what suits the terminal.

    *problems* are sentences about what could not be read.
    """

    theme: str = ""
    ascii: bool = False
    mouse: bool = True
    read_only: bool = False
    theme_in_file: str = ""
    """The theme in ``dashboard.toml``."""
    problems: tuple[str, ...] = ()


class _File(Struct, kw_only=True):
    theme: str | UnsetType = UNSET
    ascii: bool | UnsetType = UNSET
    mouse: bool | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET


class _SavedTheme(Struct, kw_only=True):
    """The theme chosen in the dashboard, *instead_of* that of ``dashboard.toml``.

    It is used as long as ``dashboard.toml`` still has the same theme: the later choice wins.
    """

    theme: str
    instead_of: str = ""


def read_options(file: Path, state_file: Path) -> Options:
    """The options in the user's ``dashboard.toml``, and the theme that was saved last.

    A mistake in the file becomes one of the *problems*.
    """
    options, problems = Options(), []
    try:
        text = TomlDocument(file.read_bytes())
        for key, what in unknown_keys(text.values, _File.__struct_fields__):
            problems.append(_place(file, text.line_of_key(key) or text.line_of_table(key), what))
        known_values = {
            key: value for key, value in text.values.items() if key in _File.__struct_fields__
        }
        try:
            options = Options(**to_builtins(convert(known_values, _File)))
        except TomlInvalid as error:
            problems.append(_place(file, text.line_of_key(error.key or ""), error.what))
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{file} can't be read: {error.strerror}.")
    except TomlInvalid as error:
        problems.append(_place(file, error.line, error.what))
    in_file = options.theme
    try:
        saved = convert(TomlDocument(state_file.read_bytes()).values, _SavedTheme)
    except (OSError, TomlInvalid):
        # No theme was chosen yet, or another program wrote into the file: the next choice replaces
        # it.
        saved = None
    theme = saved.theme if saved is not None and saved.instead_of == in_file else in_file
    return replace(options, theme=theme, theme_in_file=in_file, problems=tuple(problems))


def save_theme(state_file: Path, theme: str, *, instead_of: str) -> None:
    """Save a theme for the next start, in the dashboard's own file; raises `OSError`."""
    Path(os.path.realpath(state_file)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = (
        "# Written by the dashboard when a theme is chosen in it.\n"
        f'theme = "{theme}"\ninstead_of = "{instead_of}"\n'
    )
    replace_file(state_file, content.encode())


def theme_named(name: str, themes: Iterable[str]) -> str:
    """Check the name of a theme; raises `OptionInvalid`, which names the nearest."""
    names = sorted(themes)
    if name in names:
        return name
    raise OptionInvalid(
        f"There is no theme {name}.", nearest(name, names).replace("The keys are", "The themes are")
    )


def suitable_theme(theme: str, default: str, color_system: str | None) -> str:
    """*theme* or *default*, or the nearest to it that a terminal can show.

    Under NO_COLOR, and with 16 colours, that is a theme of the terminal's own colours.
    """
    if theme in ANSI_THEMES:
        return theme
    if os.environ.get("NO_COLOR") or color_system in {None, "standard", "windows"}:
        return "ansi-light" if theme.endswith("-light") else "ansi-dark"
    return theme or default


def _place(file: Path, line: int | None, what: str) -> str:
    return f"{file}, line {line}: {what}" if line else f"{file}: {what}"
