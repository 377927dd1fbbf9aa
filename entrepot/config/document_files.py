"""Reading and writing ``rules.toml`` and ``credentials.toml``, and why that fails.

`entrepot.config.documents` decides what is in force.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

import tomli_w

from entrepot.causes import user_name
from entrepot.core.credentials import CredentialBook
from entrepot.core.readers import ReaderAccess
from entrepot.core.rule_import import CredentialSetRow, RuleRow
from entrepot.core.rules import RuleBook
from entrepot.errors import EngineError, Refusal
from entrepot.files import READABLE_STORES, replace_file
from entrepot.toml import ENTRY_NAME_LENGTH, TomlDocument, TomlInvalid

DOCUMENT_SIZE: Final = 8 * 1024 * 1024
"""The largest document that is read, in bytes; 1,000 rules with the longest names take 0.7 MB."""

PROBLEMS_IN_MESSAGE: Final = 5
"""Problems that `DocumentInvalid` names in its message; ``problems`` has all of them."""

_EDIT: Final = "Edit it where it comes from: the engine picks that up within seconds."
_EDIT_OR_OPEN: Final = f"{_EDIT} Or let the engine's user write it and its directory."

_HEADER: Final = """\
# {what} of Entrepot.
#
# The engine replaces this file whole whenever {kind} changes, so comments and blank lines do not
# last. An edit by hand is picked up within seconds, and checked as a whole: if any part of it
# breaks a limit, none of it is taken.
"""

Row = TypeVar("Row", RuleRow, CredentialSetRow)


@dataclass(frozen=True, slots=True)
class DocumentProblem:
    """One thing that is wrong with a document."""

    file: Path
    line: int | None
    """Counted from 1; None where it is not known."""
    entry: str | None
    """``rule hub-library``"""
    message: str
    code: str
    """That of the refusal, or of `DocumentInvalid`."""

    def __str__(self) -> str:
        place = [
            str(self.file),
            *([f"line {self.line}"] if self.line else []),
            *([self.entry] if self.entry else []),
        ]
        return f"{', '.join(place)}: {self.message}"


class DocumentInvalid(Refusal):
    """``rules.toml`` or ``credentials.toml`` can't be used as it is on the disk.

    ``problems`` has everything that is wrong.
    """

    code = "DocumentInvalid"
    status = 409

    def __init__(self, problems: tuple[DocumentProblem, ...], hint: str) -> None:
        omitted = len(problems) - PROBLEMS_IN_MESSAGE
        more = f" There are {omitted:,} more problems." if omitted > 0 else ""
        super().__init__(" ".join(map(str, problems[:PROBLEMS_IN_MESSAGE])) + more, hint)
        self.problems = problems


class ConfigurationReadOnly(Refusal):
    """``rules.toml`` or ``credentials.toml`` can't be written where it is (F78).

    It is in a store, on a read-only mount, or another user's. Nothing is changed.
    """

    code = "ConfigurationReadOnly"
    status = 409


Signature = tuple[int, int, int] | None
"""A version of a file: the time of its last change, its size and inode; None if there is none."""


class DocumentFile(Generic[Row]):
    """One document as it is on the disk: its entries, and what is wrong with it."""

    def __init__(
        self, file: Path, table: str, kind: str, row: type[Row], *, had_entries: bool
    ) -> None:
        self.file = file
        self.problems: list[DocumentProblem] = []
        self.rows: list[Row] = []
        self._table = table
        self._kind = kind
        self._lines: list[int | None] = []
        """The line of each of ``rows``."""
        self.signature: Signature = None
        try:
            content, self.signature = read_document(file)
        except OSError as error:
            hint = (
                f" Let the engine's user, {_user_name(os.geteuid())}, read it."
                if error.errno == errno.EACCES
                else ""
            )
            self._add_problem(f"It can't be read: {error.strerror}.{hint}")
            return
        target = Path(os.path.realpath(file))
        if content is None and not target.parent.is_dir() and file.is_symlink():
            # A link to a missing file is fine, the engine may create that. The directory of this
            # one is missing: its disk is not mounted, or its store was cleaned.
            self._add_problem(f"It is a link to {target}, and {target.parent} is not there.")
            return
        if had_entries and not (content or b"").strip():
            # An editor may be at work, or a hand slipped. To have no entries, a person leaves the
            # comment at the head of the file, which the engine writes too.
            state = "is gone" if content is None else "is empty"
            self._add_problem(
                f"The file {state}, so the {kind}s that it listed stay in force. "
                "To have none, write a line that begins with # into it."
            )
            return
        try:
            self._read(TomlDocument(content or b""), row)
        except TomlInvalid as invalid:
            self._add_problem(invalid.what, line=invalid.line)

    def add_refusals(self, refusals: Sequence[tuple[int | None, Refusal]]) -> None:
        """Add what a book refuses as problems, each with its line."""
        for position, refusal in refusals:
            if position is None:
                self._add_problem(refusal.message, code=refusal.code)
            else:
                self._add_problem(
                    refusal.message,
                    line=self._lines[position],
                    entry=self.rows[position].name,
                    code=refusal.code,
                )

    def _read(self, document: TomlDocument, row: type[Row]) -> None:
        for unknown_key in document.unknown_keys((self._table,)):
            self._add_problem(unknown_key.what, line=unknown_key.line)
        for entry in document.table_entries(self._table, row, noun=self._kind):
            invalid_parts = list(entry.unknown_keys)
            # A misspelt key leaves the right one out: then the nearest key is named already.
            if entry.misfit is not None and not (entry.unknown_keys and entry.misfit.key is None):
                invalid_parts.append(entry.misfit)
            for invalid in invalid_parts:
                line = document.line_of_key(invalid.key or "", below=entry.line) or entry.line
                self._add_problem(invalid.what, line=line, entry=entry.name)
            if entry.row is not None:
                self.rows.append(entry.row)
                self._lines.append(entry.line)

    def _add_problem(
        self,
        message: str,
        *,
        line: int | None = None,
        entry: str | None = None,
        code: str = DocumentInvalid.code,
    ) -> None:
        name = f"{self._kind} {entry[:ENTRY_NAME_LENGTH]}" if entry else None
        self.problems.append(DocumentProblem(self.file, line, name, message, code))


def render_rules(rules: RuleBook) -> bytes:
    """The content of ``rules.toml``."""
    return _render(
        _HEADER.format(what="The cache rules", kind="a rule"),
        "rules",
        (
            (
                {
                    "name": rule.name,
                    "source_repository": str(rule.source),
                    "target_repository": str(rule.target),
                    **(
                        {"credential_set": rule.credential_set}
                        if rule.credential_set is not None
                        else {}
                    ),
                    **({"freshness": text} if (text := rule.freshness_text) is not None else {}),
                    **_access_keys(rule.access),
                },
                rule.created,
            )
            for rule in rules
        ),
    )


def _access_keys(access: ReaderAccess) -> dict[str, object]:
    keys: dict[str, object] = {}
    if access.readers:
        keys["readers"] = list(access.readers)
    if access.anonymous is not None:
        keys["anonymous"] = access.anonymous
    return keys


def render_credential_sets(credential_sets: CredentialBook) -> bytes:
    """The content of ``credentials.toml``."""
    return _render(
        _HEADER.format(what="The credential sets", kind="a credential set")
        + "# A secret itself never stands here, only where it is kept.\n",
        "credential_sets",
        (
            (
                {
                    "name": credential_set.name,
                    "login_server": credential_set.login_server,
                    "username_id": str(credential_set.username),
                    "password_id": str(credential_set.password),
                },
                credential_set.created,
            )
            for credential_set in credential_sets
        ),
    )


def _render(
    header: str, table: str, entries: Iterable[tuple[Mapping[str, object], datetime]]
) -> bytes:
    def parts() -> Iterator[str]:
        yield header
        for values, created in entries:
            # tomli-w would write short entries as one line of inline tables, and times without the
            # T.
            yield f"\n[[{table}]]\n{tomli_w.dumps(values)}created = {created:%Y-%m-%dT%H:%M:%SZ}\n"

    return "".join(parts()).encode()


def read_document(file: Path) -> tuple[bytes | None, Signature]:
    """The bytes of a file and the signature of that version.

    None and None if there is none.
    """
    try:
        with file.open("rb") as opened:
            signature = _signature_of(os.fstat(opened.fileno()))
            content = opened.read(DOCUMENT_SIZE + 1)
    except FileNotFoundError:
        return None, None
    if len(content) > DOCUMENT_SIZE:
        raise OSError(0, f"it is longer than {DOCUMENT_SIZE:,} bytes")
    return content, signature


def current_signature(file: Path) -> Signature:
    """The signature of a file as it is now; None if there is none."""
    try:
        return _signature_of(file.stat())
    except OSError:
        return None


def _signature_of(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino


def write_obstacle(file: Path) -> tuple[str, str] | None:
    """Why a document can't be written, as part of a sentence, and what to do.

    None if it can be written. Blocks.
    """
    place = Path(os.path.realpath(file))
    if any(place.is_relative_to(store) for store in READABLE_STORES):
        return f"it is in {place.parent}, where nothing may be changed by hand", _EDIT
    if place.exists():
        # A read-only file in a writable directory could be replaced, against the will of its owner.
        return _protection(place, "it") or _protection(place.parent, "its directory")
    existing = next((parent for parent in place.parents if parent.is_dir()), place.parent)
    protection = _protection(
        existing,
        "its directory"
        if existing == place.parent
        else f"{existing}, where its directory would be,",
    )
    return (
        None
        if protection is None
        else (
            protection[0],
            "Set XDG_CONFIG_HOME to a directory that the engine's user can write, and start the "
            "engine again.",
        )
    )


def _protection(path: Path, what: str) -> tuple[str, str] | None:
    if os.access(path, os.W_OK):
        return None
    try:
        status, read_only = path.stat(), os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError as error:
        return f"{what} can't be looked at ({error.strerror})", _EDIT
    if read_only:
        return f"{what} is on a read-only file system", _EDIT
    if status.st_uid != os.geteuid():
        return (
            f"{what} belongs to {_user_name(status.st_uid)}, and the engine's user may only read "
            "it",
            _EDIT_OR_OPEN,
        )
    # Root may write its own files whatever the mode says, unless the system forbids it.
    mode = (
        f" (mode {stat.S_IMODE(status.st_mode):04o})"
        if not status.st_mode & stat.S_IWUSR
        else " (chattr +i)"
        if os.geteuid() == 0
        else ""
    )
    return f"{what} is write-protected{mode}", _EDIT_OR_OPEN


def _user_name(number: int) -> str:
    return user_name(number, before_number="user ")


def read_only_error(file: Path, reason: str, hint: str) -> ConfigurationReadOnly:
    """The error for a document that can't be written, as `write_obstacle` says."""
    place = os.path.realpath(file)
    link = f", which is a link to {place}," if file.is_symlink() else ""
    return ConfigurationReadOnly(
        f"{file}{link} can't be written: {reason}. Nothing is changed.", hint
    )


def write_document(file: Path, content: bytes) -> Signature:
    """Replace a document whole (`replace_file`).

    Return the signature of the new version. Raises `EngineError` or `ConfigurationReadOnly`, and
    then the file is as it was.
    """
    try:
        if not file.is_symlink():
            directory = Path(os.path.realpath(file)).parent
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _signature_of(replace_file(file, content))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise read_only_error(
                file,
                "it is mounted alone, so no other file can take its place",
                f"{_EDIT} Or mount its whole directory.",
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise read_only_error(file, error.strerror or "", _EDIT_OR_OPEN) from None
        raise EngineError(
            f"{file} can't be written: {error.strerror}. Nothing is changed.",
            "Give the engine's user the right to write there, and room on the disk.",
        ) from None
