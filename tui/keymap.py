"""Keys of the user's own, and all keys there are: read from the bindings of the screens themselves,
so that no list of them can be out of date."""

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
from entrepot.formatting import Column, table
from entrepot.toml import TomlDocument, TomlInvalid, nearest
from widgets.bars import character_of, key_name

MODIFIERS = frozenset({"ctrl", "alt", "shift", "meta", "super", "hyper"})
EVERYWHERE, LISTS = "Everywhere", "Lists"


@dataclass(frozen=True, slots=True)
class Place:
    """Where keys work: a screen, a widget that has the focus, or the whole application."""

    title: str
    bindings: tuple[Binding, ...]
    is_modal: bool = False
    """Over a modal screen only its own keys work."""


@dataclass(frozen=True, slots=True)
class Keymap:
    """Keys for the ids of bindings, as `App.set_keymap` takes them, and sentences about what could
    not be taken."""

    keys: Mapping[str, str]
    problems: tuple[str, ...] = ()


def bindings_of(node: type[DOMNode]) -> tuple[Binding, ...]:
    """The bindings that a class and its bases of ours declare, one for each key; those of Textual
    are left out."""
    found: list[Binding] = []
    for base in reversed(node.__mro__):
        if not base.__module__.startswith("textual."):
            found += Binding.make_bindings(base.__dict__.get("BINDINGS", ()))
    return tuple(found)


def places(app: type[App[Any]]) -> list[Place]:
    """All places with keys of their own: the application, the lists, and every screen in the order
    of its module."""
    found = [Place(EVERYWHERE, bindings_of(app))]
    seen: set[type] = set()
    for module in _modules(widgets, tui.screens, tui.wizards):
        for value in vars(module).values():
            if (
                not (
                    isinstance(value, type)
                    and issubclass(value, DOMNode)
                    and value.__module__ == module.__name__
                )
                or value in seen
            ):
                continue
            seen.add(value)
            is_screen = issubclass(value, Screen)
            if "BINDINGS" not in value.__dict__:
                continue
            # What others are made from is no screen itself: it has no title of its own.
            title = _title(value) if is_screen else LISTS if issubclass(value, Widget) else ""
            if title and (bindings := bindings_of(value)):
                found.append(Place(title, bindings, is_modal=issubclass(value, ModalScreen)))
    return found


def _modules(*packages: ModuleType) -> Iterator[ModuleType]:
    for package in packages:
        for each in sorted(
            pkgutil.iter_modules(package.__path__, f"{package.__name__}."),
            key=lambda module: module.name,
        ):
            yield import_module(each.name)


def _title(screen: type) -> str:
    """What a screen is called: its title, that of a wizard, or its name in words."""
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
    """The table ``[keys]`` of ``keymap.toml``: ids of bindings, and a key or a list of keys for
    each. What is wrong is told, and the rest is taken."""
    try:
        text = TomlDocument(file.read_bytes())
    except FileNotFoundError:
        return Keymap({})
    except OSError as error:
        return Keymap({}, (f"{file} can't be read: {error.strerror}.",))
    except TomlInvalid as error:
        return Keymap(
            {},
            (
                f"{file}, line {error.line}: {error.what}"
                if error.line
                else f"{file}: {error.what}",
            ),
        )
    head = text.line_of_table("keys")
    problems = [
        f"{file}: there is no table or key {each} here; the keys stand below [keys]."
        for each in text.values
        if each != "keys"
    ]
    wanted: dict[str, list[str]] = {}
    given = text.values.get("keys", {})
    for id, value in _flat(given) if isinstance(given, dict) else ():
        line = text.line_of_key(id, below=head)
        place = f"{file}, line {line}" if line else str(file)
        keys = [value] if isinstance(value, str) else value if isinstance(value, list) else None
        if keys is None or not keys or not all(isinstance(each, str) for each in keys):
            problems.append(f'{place}: {id} needs a key such as "f5", or a list of keys.')
        elif unknown := [each for each in keys if not is_key(each)]:
            problems.append(
                f"{place}: {unknown[0]!r} is not the name of a key. Write a letter, f5, ctrl+t, pagedown or slash."
            )
        else:
            wanted[id] = [_normal(each) for each in keys]
    checked = without_clashes(wanted, places(app))
    return Keymap(checked.keys, (*problems, *(f"{file}: {each}" for each in checked.problems)))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """To TOML the id of ``rules.new = "f5"`` is a table with a key, unless it stands in quotation
    marks; both are meant."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def is_key(name: str) -> bool:
    """Whether a terminal could send a key of that name."""
    *modifiers, key = name.split("+") if name != "+" else [name]
    if not set(modifiers) <= MODIFIERS or not key:
        return False
    known = {each.value for each in Keys}
    return key in known or name in known or character_of(key) is not None


def _normal(name: str) -> str:
    """A letter stays one, and a sign gets its long name, as Textual has it in bindings."""
    [binding] = Binding.make_bindings([Binding(name if name != "," else "comma", "x")])
    return binding.key


def without_clashes(wanted: Mapping[str, list[str]], known: Iterable[Place]) -> Keymap:
    """Those of *wanted* that have an id of a binding and get in nobody's way; of those that clash
    all keep their own keys."""
    known = list(known)
    ids = {binding.id for place in known for binding in place.bindings if binding.id}
    problems = [f"There is no binding {id}. {_nearest(id, ids)}" for id in wanted if id not in ids]
    taken = {id: keys for id, keys in wanted.items() if id in ids}
    while clash := next(_clashes(taken, known), None):
        place, key, one, other = clash
        dropped = [id for id in (one.id, other.id) if id in taken]
        kept = f"{' and '.join(map(str, dropped))} {'keep their own keys' if len(dropped) > 1 else 'keeps its own key'}"
        problems.append(
            f"The key {key_name(key)} would be for {_named(one)} and for {_named(other)} ({place}): {kept}."
        )
        for id in dropped:
            del taken[str(id)]
    return Keymap({id: ",".join(keys) for id, keys in taken.items()}, tuple(problems))


def _nearest(id: str, ids: set[str]) -> str:
    told = nearest(id, sorted(ids))
    return told if told.startswith("Did you mean") else "entrepot keys shows them all."


def _clashes(
    wanted: Mapping[str, list[str]], known: list[Place]
) -> Iterator[tuple[str, str, Binding, Binding]]:
    """Two bindings that one key would be for at one place, at least one of which the user moved
    there."""
    everywhere = next(place for place in known if place.title == EVERYWHERE)
    lists = [place for place in known if place.title == LISTS]
    for place in known:
        together = [place] if place.is_modal else [*lists, place, everywhere]
        owners: dict[str, Binding] = {}
        for binding in (binding for each in dict.fromkeys(together) for binding in each.bindings):
            for key in wanted.get(binding.id or "", [binding.key]):
                owner = owners.setdefault(key, binding)
                if owner.action != binding.action and (owner.id in wanted or binding.id in wanted):
                    yield place.title, key, owner, binding


def _named(binding: Binding) -> str:
    return binding.id or (
        f"what {key_name(binding.key)} does ({(binding.tooltip or binding.description or binding.action).lower()})"
    )


# The cheat sheet

COLUMNS = (Column("Keys"), Column("What it does"), Column("Id"))


def cheat_sheet(
    known: Iterable[Place], keymap: Mapping[str, str]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each place its keys, what they do, and the id by which they can be changed. What has no
    tooltip is not for people."""
    sheet = []
    told: set[tuple[str, str]] = set()
    for place in known:
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
        if lines and (place.title, str(lines)) not in told:
            told.add((place.title, str(lines)))
            sheet.append((place.title, lines))
    return sheet


def as_text(sheet: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """For a terminal."""
    return "\n\n".join(f"{title}\n{table(COLUMNS, rows)}" for title, rows in sheet)


def as_markdown(sheet: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """For a page."""
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
    return " ".join(f"`{each}`" for each in keys.split())
