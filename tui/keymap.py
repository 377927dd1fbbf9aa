"""All keys of the dashboard, and the user's own keys.

Both are read from the bindings themselves, so that no list of keys can be out of date. A pressed
key is handled in `tui.key_queue`, the bytes of a terminal in `tui.terminal_input`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

import tui.screens
import tui.wizards
import widgets
from entrepot.formatting import TableColumn, table
from entrepot.toml import TomlDocument, TomlInvalid, nearest
from widgets.bars import character_of, key_name

MODIFIERS = frozenset({"ctrl", "alt", "shift", "meta", "super", "hyper"})
RENAMED = {
    "leave": "quit",
    "leave-anywhere": "quit-anywhere",
    "wizard.leave": "wizard.quit",
}
"""Ids of bindings as files that were written before version 0.1.0 name them."""

EVERYWHERE, LISTS = "Everywhere", "Lists"


@dataclass(frozen=True, slots=True)
class Place:
    """Where keys work: on a screen, in a widget that has the focus, or everywhere."""

    title: str
    bindings: tuple[Binding, ...]
    is_modal: bool = False
    """On a modal screen only its own keys work."""


@dataclass(frozen=True, slots=True)
class Keymap:
    """Keys by the ids of bindings, for `App.set_keymap`, and what was wrong."""

    keys: Mapping[str, str]
    problems: tuple[str, ...] = ()


def bindings_of(node: type[DOMNode]) -> tuple[Binding, ...]:
    """The bindings of a class and its bases, one for each key, without Textual's."""
    bindings: list[Binding] = []
    for base in reversed(node.__mro__):
        if not base.__module__.startswith("textual."):
            bindings += Binding.make_bindings(base.__dict__.get("BINDINGS", ()))
    return tuple(bindings)


def places(app: type[App[Any]]) -> list[Place]:
    """All places with keys: the application, then lists and screens."""
    all_places = [Place(EVERYWHERE, bindings_of(app))]
    for node in _nodes(widgets, tui.screens, tui.wizards):
        is_screen = issubclass(node, Screen)
        # A class that others derive from is no screen itself and has no title.
        title = _title(node) if is_screen else LISTS if issubclass(node, Widget) else ""
        if title and (bindings := bindings_of(node)):
            all_places.append(Place(title, bindings, is_modal=issubclass(node, ModalScreen)))
    return all_places


def _nodes(*packages: ModuleType) -> Iterator[type[DOMNode]]:
    """The classes of *packages* that declare bindings, each once, by their modules."""
    for module in _modules(*packages):
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, DOMNode)
                and value.__module__ == module.__name__
                and "BINDINGS" in value.__dict__
            ):
                yield value


def _modules(*packages: ModuleType) -> Iterator[ModuleType]:
    for package in packages:
        for info in sorted(
            pkgutil.walk_packages(package.__path__, f"{package.__name__}."),
            key=lambda info: info.name,
        ):
            yield import_module(info.name)


def _title(screen: type) -> str:
    """The title of a screen or a wizard, or else its class name in words."""
    if screen.__name__ in {"EngineScreen", "ListScreen", "Wizard"}:
        return ""
    words = "".join(
        f" {letter.lower()}" if letter.isupper() else letter
        for letter in screen.__name__.removesuffix("Screen")
    ).strip()
    return str(
        getattr(screen, "wizard_title", "")
        or getattr(screen, "title_text", "")
        or words.capitalize()
    )


# The user's file


def read_keymap(file: Path, app: type[App[Any]]) -> Keymap:
    """Read the table ``[keys]`` of ``keymap.toml``: ids of bindings, and their keys.

    What is wrong becomes a problem of the keymap, and the rest is used.
    """
    try:
        text = TomlDocument(file.read_bytes())
    except FileNotFoundError:
        return Keymap({})
    except OSError as error:
        return Keymap({}, (f"{file} can't be read: {error.strerror}.",))
    except TomlInvalid as error:
        return Keymap({}, (f"{_place(file, error.line)}: {error.what}",))
    head = text.line_of_table("keys")
    problems = [
        f"{file}: there is no table or key {name} here; the keys stand below [keys]."
        for name in text.values
        if name != "keys"
    ]
    keys_by_id: dict[str, list[str]] = {}
    table_of_keys = text.values.get("keys", {})
    for id, value in _flatten(table_of_keys) if isinstance(table_of_keys, dict) else ():
        place = _place(file, text.line_of_key(id, below=head))
        keys = [value] if isinstance(value, str) else value if isinstance(value, list) else None
        if keys is None or not keys or not all(isinstance(key, str) for key in keys):
            problems.append(f'{place}: {id} needs a key such as "f5", or a list of keys.')
        elif unknown := [key for key in keys if not is_key(key)]:
            problems.append(
                f"{place}: {unknown[0]!r} is not the name of a key. "
                "Write a letter, f5, ctrl+t, pagedown or slash."
            )
        else:
            keys_by_id[RENAMED.get(id, id)] = [_normal(key) for key in keys]
    keymap = without_clashes(keys_by_id, places(app))
    clashes = (f"{file}: {problem}" for problem in keymap.problems)
    return Keymap(keymap.keys, (*problems, *clashes))


def _place(file: Path, line: int | None) -> str:
    return f"{file}, line {line}" if line else str(file)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ids with their values; ``rules.new = "f5"`` is a table to TOML."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_key(name: str) -> bool:
    """Whether a terminal could send a key of that name."""
    *modifiers, key = name.split("+") if name != "+" else [name]
    if not set(modifiers) <= MODIFIERS or not key:
        return False
    names = {member.value for member in Keys}
    return key in names or name in names or character_of(key) is not None


def _normal(name: str) -> str:
    """The name of a key as Textual has it in bindings, long for a sign."""
    [binding] = Binding.make_bindings([Binding(name if name != "," else "comma", "x")])
    return binding.key


def without_clashes(keys_by_id: Mapping[str, list[str]], all_places: Iterable[Place]) -> Keymap:
    """The user's keys without unknown ids and clashes; clashing bindings keep theirs."""
    all_places = list(all_places)
    ids = {binding.id for place in all_places for binding in place.bindings if binding.id}
    problems = [
        f"There is no binding {id}. {_nearest(id, ids)}" for id in keys_by_id if id not in ids
    ]
    usable = {id: keys for id, keys in keys_by_id.items() if id in ids}
    while clash := next(_clashes(usable, all_places), None):
        place, key, one, other = clash
        dropped = [id for id in (one.id, other.id) if id in usable]
        keep = "keep their own keys" if len(dropped) > 1 else "keeps its own key"
        problems.append(
            f"The key {key_name(key)} would be for {_describe(one)} and for {_describe(other)} "
            f"({place}): {' and '.join(map(str, dropped))} {keep}."
        )
        for id in dropped:
            del usable[str(id)]
    return Keymap({id: ",".join(keys) for id, keys in usable.items()}, tuple(problems))


def _nearest(id: str, ids: set[str]) -> str:
    advice = nearest(id, sorted(ids))
    return advice if advice.startswith("Did you mean") else "entrepot keys shows them all."


def _clashes(
    keys_by_id: Mapping[str, list[str]], all_places: list[Place]
) -> Iterator[tuple[str, str, Binding, Binding]]:
    """Pairs of bindings with the same key at one place, with place and key.

    At least one of the two has that key from the user.
    """
    everywhere = next(place for place in all_places if place.title == EVERYWHERE)
    lists = [place for place in all_places if place.title == LISTS]
    for place in all_places:
        active_places = dict.fromkeys([place] if place.is_modal else [*lists, place, everywhere])
        owners: dict[str, Binding] = {}
        for binding in (binding for active in active_places for binding in active.bindings):
            for key in keys_by_id.get(binding.id or "", [binding.key]):
                owner = owners.setdefault(key, binding)
                if owner.action != binding.action and (
                    owner.id in keys_by_id or binding.id in keys_by_id
                ):
                    yield place.title, key, owner, binding


def _describe(binding: Binding) -> str:
    if binding.id:
        return binding.id
    effect = (binding.tooltip or binding.description or binding.action).lower()
    return f"what {key_name(binding.key)} does ({effect})"


# The cheat sheet

COLUMNS = (TableColumn("Keys"), TableColumn("What it does"), TableColumn("Id"))


def cheat_sheet(
    all_places: Iterable[Place], keymap: Mapping[str, str]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each place its keys, what they do, and the id by which they can be changed.

    Bindings without a tooltip are not for users.
    """
    sheet = []
    written: set[tuple[str, str]] = set()
    for place in all_places:
        rows: dict[str, tuple[list[str], str, str]] = {}
        for binding in place.bindings:
            if not binding.tooltip:
                continue
            keys = keymap.get(binding.id or "", binding.key).split(",")
            rows.setdefault(binding.action, ([], binding.tooltip, binding.id or ""))[0].extend(keys)
        lines = [
            (" ".join(dict.fromkeys(map(key_name, keys))), text, id)
            for keys, text, id in rows.values()
        ]
        if lines and (place.title, str(lines)) not in written:
            written.add((place.title, str(lines)))
            sheet.append((place.title, lines))
    return sheet


def as_text(sheet: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """The cheat sheet for a terminal."""
    return "\n\n".join(f"{title}\n{table(COLUMNS, rows)}" for title, rows in sheet)


def as_markdown(sheet: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """The cheat sheet for a page."""
    parts = []
    for title, rows in sheet:
        lines = [
            f"| {_code(keys)} | {text} | {f'`{id}`' if id else ''} |" for keys, text, id in rows
        ]
        parts.append(
            "\n".join([f"**{title}**", "", "| Keys | What it does | Id |", "|---|---|---|", *lines])
        )
    return "\n\n".join(parts) + "\n"


def _code(keys: str) -> str:
    return " ".join(f"`{key}`" for key in keys.split())
