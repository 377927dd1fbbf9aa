"""Files of a client, and how they join what is in the same place already.

What is written stands between two comments, so that a later change, or the removal, finds it and
touches nothing else. Only JSON has no comments: a record beside the file says what was added.
"""

from __future__ import annotations

import json
import re
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from entrepot.errors import Refusal

BEGIN: Final = "# Written by entrepot mirror; --undo removes it."
END: Final = "# End of entrepot mirror."

_BLOCK = re.compile(
    rf"^[ \t]*{re.escape(BEGIN)}\n.*?^[ \t]*{re.escape(END)}\n?", re.MULTILINE | re.DOTALL
)
_SECRET = re.compile(
    r"(?P<name>authorization\s*=[^\n]*?(?:Basic|Bearer) )[^\s\"']+|(?P<key>password:\s)[^\n]+",
    re.IGNORECASE,
)
_TOML_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


class ClientFileConflict(Refusal):
    """A client's file has something that a configuration can't join."""

    code = "ClientFileConflict"
    status = 409


@dataclass(frozen=True, slots=True)
class ClientFile(ABC):
    """One file of a client's configuration."""

    path: str
    """Where the client reads it."""
    body: str
    """What it says, without the comments around it; ends with a line break."""
    is_secret: bool = field(default=False, kw_only=True)
    """Whether only its owner may read it."""

    @property
    def text(self) -> str:
        """The whole file where there was none."""
        return self.merged("")

    @abstractmethod
    def merged(self, existing: str) -> str:
        """*existing* with this in place of what was written before.

        Raises `ClientFileConflict`.
        """

    def conflict(self, what: str, hint: str) -> ClientFileConflict:
        """The refusal to write into the file as it is."""
        return ClientFileConflict(f"{self.path} {what}", hint, field="file")


def has_block(text: str) -> bool:
    """Whether a text has what this module has written."""
    return BEGIN in text


def without_block(text: str) -> str:
    """A text without what was written into it; empty where nothing else is left."""
    rest = _BLOCK.sub("", text)
    return rest if rest.strip() else ""


def block(body: str, indent: str = "") -> str:
    """What is written between its two comments."""
    return "".join(
        f"{indent}{line}\n" if line else "\n" for line in (BEGIN, *body.splitlines(), END)
    )


def masked(text: str) -> str:
    """A text without the passwords in it, to be shown."""
    return _SECRET.sub(lambda match: f"{match['name'] or match['key']}***", text)


def string(text: str) -> str:
    """A string of TOML, YAML or JSON."""
    return json.dumps(text, ensure_ascii=False)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _parsed(file: ClientFile, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise file.conflict(f"is not valid TOML: {error}.", "Correct it first.") from None


class OwnFile(ClientFile):
    """A file that has nothing else in it."""

    def merged(self, existing: str) -> str:
        """The file; refused where the file is another program's or a person's."""
        if without_block(existing):
            raise self.conflict(
                "is there already, and entrepot mirror did not write it.",
                "Move it away, or write into another directory: --directory DIR",
            )
        return block(self.body)


@dataclass(frozen=True, slots=True)
class HostsFile(ClientFile):
    """A ``hosts.toml`` of containerd, whose hosts are tried in their order: ours is the first."""

    server: str = ""
    """Where the client goes after all hosts; a file that is there already says that itself."""

    def merged(self, existing: str) -> str:
        """*existing* with these hosts in front of the others."""
        existing = _ended(without_block(existing))
        table = _TOML_TABLE.search(existing)
        start = table.start() if table else len(existing)
        before, after = existing[:start], existing[start:]
        present = _parsed(self, existing)
        server = "" if existing else f"server = {string(self.server)}\n\n"
        hosts = present.get("host", {})
        for name in tomllib.loads(self.body)["host"]:
            if name in hosts:
                raise self.conflict(
                    f"names {name} already.", "Remove that table, or leave the file as it is."
                )
        merged = f"{before}{block(server + self.body)}{after}"
        _parsed(self, merged)
        return merged


class TomlFile(ClientFile):
    """A TOML file of which other tables belong to others."""

    def merged(self, existing: str) -> str:
        """*existing* with these tables at its end."""
        existing = _ended(without_block(existing))
        present = _parsed(self, existing)
        for table, rows in tomllib.loads(self.body).items():
            for name in rows:
                if name in present.get(table, {}):
                    raise self.conflict(
                        f"has [{table}.{string(name)}] already.",
                        f"Remove that table, or add to it by hand:\n{self.body}",
                    )
        merged = existing + block(self.body)
        _parsed(self, merged)
        return merged


@dataclass(frozen=True, slots=True)
class YamlFile(ClientFile):
    """A YAML file of maps at its top, of which other entries belong to others.

    It is changed as text, so that comments stay.
    """

    maps: Mapping[str, str] = field(default_factory=dict)
    """The entries of each map, without indentation, by its key."""

    def merged(self, existing: str) -> str:
        """*existing* with the entries at the beginning of their maps."""
        merged = _ended(without_block(existing))
        new_maps = ""
        for key, entries in self.maps.items():
            head = re.search(rf"^{key}:(?P<rest>.*)$", merged, re.MULTILINE)
            if head is None:
                new_maps += f"{key}:\n{_indented(entries, '  ')}"
                continue
            if head["rest"].partition("#")[0].strip():
                raise self.conflict(
                    f"has {key} on one line.", "Write each of its entries on a line of its own."
                )
            indent, names = _entries_below(merged[head.end() :])
            for name in _entry_names(entries):
                if name in names:
                    raise self.conflict(
                        f"has an entry for {name} below {key} already.",
                        f"Remove that entry, or add to it by hand:\n{entries}",
                    )
            position = head.end() + 1
            merged = merged[:position] + block(entries, indent) + merged[position:]
        return merged + (block(new_maps) if new_maps else "")


def _indented(text: str, indent: str) -> str:
    return "".join(f"{indent}{line}\n" for line in text.splitlines())


_YAML_ENTRY = re.compile(
    r"^(?P<indent> *)(?P<quote>[\"']?)(?P<name>[^\s\"'#][^\"'\n]*?)(?P=quote):(?:\s|$)"
)


def _entries_below(text: str) -> tuple[str, set[str]]:
    """The indentation and names of the entries of a map whose first line *text* follows."""
    indent: str | None = None
    names: set[str] = set()
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _YAML_ENTRY.match(line)
        depth = len(line) - len(line.lstrip(" "))
        if depth == 0:
            break
        if match is not None and (indent is None or match["indent"] == indent):
            indent = match["indent"]
            names.add(match["name"])
    return indent or "  ", names


def _entry_names(entries: str) -> list[str]:
    matches = (_YAML_ENTRY.match(line) for line in entries.splitlines())
    return [match["name"] for match in matches if match is not None and not match["indent"]]


@dataclass(frozen=True, slots=True)
class JsonFile(ClientFile):
    """A JSON file with lists, of which other elements belong to others."""

    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is added to each list, by its key."""
    record: str = ""
    """The path of the record of what was added."""

    def merged(self, existing: str) -> str:
        """*existing* with the elements in front of others; unchanged where it has them all."""
        document = self.document(existing)
        for key, elements in self.lists.items():
            present = document.get(key, [])
            if not isinstance(present, list):
                raise self.conflict(f"has a {key} that is no list.", "Make it a list first.")
            missing = [element for element in elements if element not in present]
            if missing:
                document[key] = [*missing, *present]
        if existing.strip() and document == self.document(existing):
            return existing
        return _dumped(document, existing)

    def added_to(self, existing: str) -> dict[str, list[str]]:
        """What `merged` adds to *existing*, by key."""
        document = self.document(existing)
        return {
            key: missing
            for key, elements in self.lists.items()
            if (missing := [each for each in elements if each not in document.get(key, [])])
        }

    def document(self, existing: str) -> dict[str, Any]:
        """The object of a text; raises `ClientFileConflict`."""
        try:
            document = json.loads(existing) if existing.strip() else {}
        except ValueError as error:
            raise self.conflict(f"is not valid JSON: {error}.", "Correct it first.") from None
        if not isinstance(document, dict):
            raise self.conflict("is no JSON object.", "Correct it first.")
        return document


def without_elements(existing: str, added: Mapping[str, list[str]]) -> str:
    """A JSON text without the elements that were added; empty where nothing else is left.

    Without any of them it is as it was. Raises ValueError where it is no JSON object.
    """
    document = json.loads(existing) if existing.strip() else {}
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    before = dict(document)
    for key, elements in added.items():
        present = document.get(key)
        if isinstance(present, list):
            document[key] = [element for element in present if element not in elements]
            if not document[key]:
                del document[key]
    if document == before:
        return existing
    return _dumped(document, existing) if document else ""


def _dumped(document: dict[str, Any], existing: str) -> str:
    indent = re.search(r"^([ \t]+)\S", existing, re.MULTILINE)
    return json.dumps(document, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"
