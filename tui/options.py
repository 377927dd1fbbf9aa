"""How a user wants the dashboard to be: from the command line, from ``dashboard.toml``, and what
was chosen in the dashboard itself the last time."""

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
"""Those of Textual's themes that use the terminal's own colours. They alone send no colour at all
under NO_COLOR; others would turn into greys."""


class OptionInvalid(EntrepotError):
    """An option of the dashboard that can't be used."""

    code = "OptionInvalid"


@dataclass(frozen=True, slots=True)
class Options:
    """*theme* is the name of one, or empty for what suits the terminal; *problems* are sentences
    about what could not be read."""

    theme: str = ""
    ascii: bool = False
    mouse: bool = True
    read_only: bool = False
    theme_in_file: str = ""
    """What ``dashboard.toml`` says of the theme."""
    problems: tuple[str, ...] = ()


class _File(Struct, kw_only=True):
    theme: str | UnsetType = UNSET
    ascii: bool | UnsetType = UNSET
    mouse: bool | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET


class _Kept(Struct, kw_only=True):
    """What the dashboard keeps. A theme counts only as long as the user's own file says of it what
    it said when it was chosen: the later word wins."""

    theme: str
    instead_of: str = ""


def read_options(file: Path, kept: Path) -> Options:
    """The user's ``dashboard.toml``, and what was kept from the last time. A mistake in it is told,
    and the dashboard opens all the same."""
    options, problems = Options(), []
    try:
        text = TomlDocument(file.read_bytes())
        for key, what in unknown_keys(text.values, _File.__struct_fields__):
            problems.append(_place(file, text.line_of_key(key) or text.line_of_table(key), what))
        known = {key: value for key, value in text.values.items() if key in _File.__struct_fields__}
        try:
            options = Options(**to_builtins(convert(known, _File)))
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
        chosen = convert(TomlDocument(kept.read_bytes()).values, _Kept)
    except (OSError, TomlInvalid):
        # Nothing was chosen yet, or somebody else wrote into our own file: it is written anew with
        # the next choice.
        chosen = None
    theme = chosen.theme if chosen is not None and chosen.instead_of == in_file else in_file
    return replace(options, theme=theme, theme_in_file=in_file, problems=tuple(problems))


def save_theme(kept: Path, theme: str, *, instead_of: str) -> None:
    """Remember a theme for the next time, in a file of our own; raises `OSError`."""
    Path(os.path.realpath(kept)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = (
        "# Written by the dashboard when a theme is chosen in it.\n"
        f'theme = "{theme}"\ninstead_of = "{instead_of}"\n'
    )
    replace_file(kept, content.encode())


def theme_named(name: str, themes: Iterable[str]) -> str:
    """*name*, if there is such a theme; raises `OptionInvalid`, which names the nearest."""
    known = sorted(themes)
    if name in known:
        return name
    raise OptionInvalid(
        f"There is no theme {name}.", nearest(name, known).replace("The keys are", "The themes are")
    )


def suitable_theme(wanted: str, default: str, color_system: str | None) -> str:
    """*wanted* or *default*, or the nearest to it that a terminal can show: under NO_COLOR, and
    with 16 colours, only its own colours do."""
    if wanted in ANSI_THEMES:
        return wanted
    if os.environ.get("NO_COLOR") or color_system in {None, "standard", "windows"}:
        return "ansi-light" if wanted.endswith("-light") else "ansi-dark"
    return wanted or default


def _place(file: Path, line: int | None, what: str) -> str:
    return f"{file}, line {line}: {what}" if line else f"{file}: {what}"
