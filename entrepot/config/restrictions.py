"""``restrictions.toml`` in the data directory: who may read what is cached, beside what is cached.

Rules that keep readers out are in it as long as they are in force, and then for as long as anything
of them is cached, however they went: by a command, or by an edit of ``rules.toml`` while no engine
ran. The file is written before the rules are, so that no crash opens a repository.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import tomli_w
from msgspec import Struct

from entrepot.config.document_files import read_document, write_document
from entrepot.core.patterns import TargetRepository
from entrepot.core.readers import ReaderAccess, parse_readers
from entrepot.core.restrictions import Restriction, Restrictions
from entrepot.core.rules import RuleBook
from entrepot.errors import EngineError, Refusal
from entrepot.toml import TomlDocument, TomlInvalid

_HEADER: Final = """\
# Who may read what is cached here. The engine writes this file, also for rules that were deleted:
# what they cached must not become public. An entry goes when nothing of it is cached any more.
"""
_HINT: Final = (
    "Fix it, or delete it if no rule with readers was deleted: then the engine writes it again "
    "from rules.toml."
)


_log = logging.getLogger("entrepot.config")


class _RestrictionRow(Struct, kw_only=True):
    target_repository: str
    readers: tuple[str, ...] = ()
    anonymous: bool | None = None


class RestrictionRecord:
    """The restrictions in force, and their file.

    Its methods block, and are called by one thread at a time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written = Restrictions()
        self.current = Restrictions()

    def load(self, rules: RuleBook) -> None:
        """Read those of the last run, and add those of *rules*; raises `EngineError`."""
        self._written = read_restrictions(self._file)
        self.current = self._written
        self.follow(rules)

    def write_before(self, rules: RuleBook) -> None:
        """Write what will hold with *rules*, which are about to be in force.

        Raises `EngineError` or `ConfigurationReadOnly`, and then nothing is changed.
        """
        self._put(self.current.with_rules(rules))

    def follow(self, rules: RuleBook) -> None:
        """The same for rules that are in force already, whether the file can be written or not."""
        self._put_anyway(self.current.with_rules(rules))

    def prune(self, rules: RuleBook, is_needed: Callable[[TargetRepository], bool]) -> None:
        """Drop those of deleted rules that are not needed any more."""
        self._put_anyway(self.current.needed(rules, is_needed))

    def _put_anyway(self, restrictions: Restrictions) -> None:
        try:
            self._put(restrictions)
        except (EngineError, Refusal) as error:
            self.current = restrictions
            _log.warning("Who may read what deleted rules cached is not kept: %s", error.message)

    def _put(self, restrictions: Restrictions) -> None:
        if restrictions != self._written:
            write_restrictions(self._file, restrictions)
            self._written = restrictions
        self.current = restrictions


def read_restrictions(file: Path) -> Restrictions:
    """The restrictions of the last run; none where there is no file.

    Raises `EngineError`: without them something private might be served.
    """
    try:
        content, _ = read_document(file)
        document = TomlDocument(content or b"")
        restrictions = []
        for entry in document.table_entries("restrictions", _RestrictionRow):
            if entry.row is None:
                what = entry.misfit.what if entry.misfit is not None else "It can't be read."
                raise _invalid(file, entry.line, what)
            try:
                target = TargetRepository.parse(entry.row.target_repository)
                readers = parse_readers(entry.row.readers)
            except Refusal as refusal:
                raise _invalid(file, entry.line, refusal.message) from None
            restrictions.append(Restriction(target, ReaderAccess(readers, entry.row.anonymous)))
    except TomlInvalid as invalid:
        raise _invalid(file, invalid.line, invalid.what) from None
    except OSError as error:
        raise _invalid(file, None, f"It can't be read: {error.strerror}.") from None
    return Restrictions(restrictions)


def write_restrictions(file: Path, restrictions: Restrictions) -> None:
    """Replace the file whole; raises `EngineError`, and then it is as it was."""
    parts = [_HEADER]
    for restriction in restrictions:
        values: dict[str, object] = {"target_repository": str(restriction.target)}
        if restriction.access.readers:
            values["readers"] = list(restriction.access.readers)
        if restriction.access.anonymous is not None:
            values["anonymous"] = restriction.access.anonymous
        parts.append(f"\n[[restrictions]]\n{tomli_w.dumps(values)}")
    write_document(file, "".join(parts).encode())


def _invalid(file: Path, line: int | None, what: str) -> EngineError:
    place = f"{file}, line {line}" if line else str(file)
    return EngineError(f"{place}: {what}", _HINT)
