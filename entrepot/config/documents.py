"""Cache rules and credential sets as TOML documents: validated, replaced whole, hand edits noticed.

``rules.toml`` and ``credentials.toml`` belong to the engine. What is in force is always one whole
that was valid together: an edit by hand that breaks a limit is refused as a whole,
`Documents.problem` says why, and the last good state stays.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import tomli_w
from msgspec import UNSET, Struct, UnsetType

from entrepot.causes import user_name
from entrepot.config.settings import Directories
from entrepot.core.credentials import (
    CredentialBook,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetsInvalid,
    to_the_second,
)
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import (
    CredentialSetRow,
    ImportRefused,
    ImportResult,
    RuleRow,
    read_import,
)
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft, RulesInvalid
from entrepot.errors import EngineError, Refusal
from entrepot.files import READABLE_STORES, replace_file
from entrepot.toml import Text, TomlInvalid, converted, unknown_keys

DOCUMENT_SIZE: Final = 8 * 1024 * 1024
"""The largest document that is read, in bytes. A thousand rules with the longest names take about
0.7 MB."""

LOCK_TIMEOUT: Final = 10.0
"""Seconds that a change waits for another one to be written, which takes milliseconds unless its
disk hangs."""

SHOWN: Final = 5
"""So many problems are told in a message; `DocumentInvalid.problems` has them all."""

_STAYS = "Mend the file: until then, what was read before stays in force, and nothing is written over it."
_START = "Mend the file and start again."

_EDIT: Final = "Edit it where it comes from: the engine picks that up within seconds."
_EDIT_OR_OPEN: Final = f"{_EDIT} Or let the engine's user write it and its directory."

_HEADER = """\
# {what} of Entrepot.
#
# The engine replaces this file whole whenever {kind} changes, so comments and blank lines do not last. What is edited
# here by hand is picked up within seconds, and checked as a whole: if anything breaks a limit, nothing of it is taken.
"""

Row = TypeVar("Row", bound=Struct)
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class DocumentProblem:
    """One thing that is wrong with a document."""

    file: Path
    line: int | None
    """Where it stands, counted from 1; None where nobody can tell."""
    entry: str | None
    """``rule hub-library``"""
    message: str
    code: str
    """Of the refusal, or `DocumentInvalid.code`."""

    def __str__(self) -> str:
        place = [
            str(self.file),
            *([f"line {self.line}"] if self.line else []),
            *([self.entry] if self.entry else []),
        ]
        return f"{', '.join(place)}: {self.message}"


class DocumentInvalid(Refusal):
    """``rules.toml`` or ``credentials.toml``, as it stands on the disk, can't be used; ``problems``
    says all that is wrong."""

    code = "DocumentInvalid"
    status = 409

    def __init__(self, problems: tuple[DocumentProblem, ...], hint: str) -> None:
        more = (
            f" There are {len(problems) - SHOWN:,} more problems." if len(problems) > SHOWN else ""
        )
        super().__init__(" ".join(str(each) for each in problems[:SHOWN]) + more, hint)
        self.problems = problems


class ConfigurationReadOnly(Refusal):
    """``rules.toml`` or ``credentials.toml`` can't be written where it is: a store, a read-only
    mount, a file of another user (F78). Nothing is changed."""

    code = "ConfigurationReadOnly"
    status = 409


Signature = tuple[int, int, int] | None
"""Time of the last change, size and inode of a file, which tell one version from another; None if
there is no file."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is in force. Replaced whole, so that a reader in another thread never sees half a
    change."""

    rules: RuleBook
    credential_sets: CredentialBook
    signatures: tuple[Signature, Signature]
    """Of ``rules.toml`` and ``credentials.toml`` as they were read or written."""
    problem: DocumentInvalid | None = None


class Documents:
    """The two documents of one engine, and the books that they make.

    Every change is one piece of work in a thread under one lock: check, write, put in force.
    Whoever waits for it may be cancelled; the work is not, so file and memory never part.
    """

    def __init__(self, directories: Directories, registries: SourceRegistries) -> None:
        self._rules_file = directories.rules
        self._credentials_file = directories.credentials
        self._registries = registries
        credential_sets = CredentialBook(registries)
        self._state = _State(RuleBook(registries, credential_sets), credential_sets, (None, None))
        self._lock = threading.Lock()
        self.revision = 0
        """Grows with every change of what is in force."""

    @property
    def rules(self) -> RuleBook:
        """The rules in force."""
        return self._state.rules

    @property
    def credential_sets(self) -> CredentialBook:
        """The credential sets in force."""
        return self._state.credential_sets

    @property
    def problem(self) -> DocumentInvalid | None:
        """Why the documents on the disk are not in force; None when they are. It stays the same
        object until something else is wrong."""
        return self._state.problem

    async def load(self) -> None:
        """Read both documents at the start; a missing one is empty. Raises `DocumentInvalid`."""
        await asyncio.to_thread(self._load)

    async def edited(self) -> bool:
        """Whether a hand edit waits to be judged, or a refused one to be judged again. It costs two
        looks at the disk."""
        return await asyncio.to_thread(self._edited)

    async def reload_if_changed(self, existing_repositories: Collection[str] = ()) -> bool:
        """Put a hand edit in force; whether there was one. If it can't be, `problem` says why and
        what was in force stays.

        The target of a rule that is new must not be among *existing_repositories*.
        """
        return await asyncio.to_thread(self._reload_if_changed, existing_repositories)

    async def create_rule(
        self, draft: RuleDraft, existing_repositories: Collection[str] = ()
    ) -> CacheRule:
        """Make a cache rule; raises a `Refusal`, and then nothing is changed."""

        def create(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            rule = state.rules.check(draft, existing_repositories=existing_repositories)
            return rule, state.rules.with_rule(rule), state.credential_sets

        return await self._change(create)

    async def update_rule(
        self,
        name: str,
        credential_set: str | UnsetType | None = UNSET,
        *,
        freshness: str | float | UnsetType | None = UNSET,
    ) -> CacheRule:
        """Give a rule another credential set, or none, and another freshness, or that of the
        settings; raises `CacheRuleNotFound` or a `Refusal`."""

        def update(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            rules = state.rules
            if credential_set is not UNSET:
                rules = rules.with_credential_set(name, credential_set)
            if freshness is not UNSET:
                rules = rules.with_freshness(name, freshness)
            return rules.get(name), rules, state.credential_sets

        return await self._change(update)

    async def delete_rule(self, name: str) -> CacheRule:
        """Delete a rule, and give back what it was; raises `CacheRuleNotFound`."""

        def delete(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            return state.rules.get(name), state.rules.without(name), state.credential_sets

        return await self._change(delete)

    async def create_credential_set(self, draft: CredentialSetDraft) -> CredentialSet:
        """Make a credential set; raises a `Refusal`, and then nothing is changed."""

        def create(state: _State) -> tuple[CredentialSet, RuleBook, CredentialBook]:
            made = state.credential_sets.check(draft)
            sets = state.credential_sets.with_set(made)
            return made, state.rules.with_credential_sets(sets), sets

        return await self._change(create)

    async def update_credential_set(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialSet:
        """Give a credential set other secret identifiers; None leaves one as it is. Raises
        `CredentialSetNotFound` or a `Refusal`."""

        def update(state: _State) -> tuple[CredentialSet, RuleBook, CredentialBook]:
            sets = state.credential_sets.with_identifiers(
                name, username_id=username_id, password_id=password_id
            )
            return sets.get(name), state.rules.with_credential_sets(sets), sets

        return await self._change(update)

    async def delete_credential_set(self, name: str) -> CredentialSet:
        """Delete a credential set, and give back what it was; raises `CredentialSetNotFound`, or
        `CredentialSetInUse` if a rule uses it."""

        def delete(state: _State) -> tuple[CredentialSet, RuleBook, CredentialBook]:
            sets = state.credential_sets.without(name)
            return state.credential_sets.get(name), state.rules.with_credential_sets(sets), sets

        return await self._change(delete)

    async def plan_import(
        self, text: str, existing_repositories: Collection[str] = ()
    ) -> ImportResult:
        """What an import of a TOML text would do; nothing is changed."""
        state = self._state
        return await asyncio.to_thread(
            read_import,
            text,
            state.rules,
            state.credential_sets,
            self._registries,
            existing_repositories,
        )

    async def apply_import(
        self, text: str, existing_repositories: Collection[str] = ()
    ) -> ImportResult:
        """Create the rules and credential sets of a TOML text, all or none of them.

        Raises `ImportRefused` or `DocumentInvalid`.
        """

        def apply(state: _State) -> tuple[ImportResult, RuleBook, CredentialBook]:
            result = read_import(
                text, state.rules, state.credential_sets, self._registries, existing_repositories
            )
            if not result.possible:
                raise ImportRefused(result)
            return result, result.rules, result.credential_sets

        return await self._change(apply)

    async def _change(
        self, change: Callable[[_State], tuple[Made, RuleBook, CredentialBook]]
    ) -> Made:
        return await asyncio.to_thread(self._change_now, change)

    # What follows runs in a thread, under the lock.

    @contextmanager
    def _lock_for_change(self) -> Iterator[None]:
        """The lock; raises `EngineError` while another change hangs on its disk, so that not each
        of them holds a thread."""
        if not self._lock.acquire(timeout=LOCK_TIMEOUT):
            directory = self._rules_file.parent
            raise EngineError(
                f"Another change has not been written to {directory} for {LOCK_TIMEOUT:g} s.",
                "Look at the disk of that directory.",
            )
        try:
            yield
        finally:
            self._lock.release()

    def _change_now(
        self, change: Callable[[_State], tuple[Made, RuleBook, CredentialBook]]
    ) -> Made:
        with self._lock_for_change():
            state = self._state
            self._refuse_to_overwrite(state)
            made, rules, credential_sets = change(state)
            rules_signature, credentials_signature = state.signatures
            # The credential sets first: should the engine be killed in between, none is missing
            # that a rule uses.
            new_sets = credential_sets != state.credential_sets
            for file, is_new in (
                (self._credentials_file, new_sets),
                (self._rules_file, rules != state.rules),
            ):
                if is_new and (obstacle := _obstacle(file)) is not None:
                    raise _read_only(file, *obstacle)
            before = _contents(self._credentials_file)[0] if new_sets else None
            if new_sets:
                credentials_signature = _replace(
                    self._credentials_file, _credentials_document(credential_sets)
                )
            if rules != state.rules:
                try:
                    rules_signature = _replace(self._rules_file, _rules_document(rules))
                except (EngineError, ConfigurationReadOnly):
                    if new_sets:
                        kept = _replace(
                            self._credentials_file,
                            before or _credentials_document(state.credential_sets),
                        )
                        self._put_in_force(
                            _State(state.rules, state.credential_sets, (rules_signature, kept))
                        )
                    raise
            self._put_in_force(
                _State(rules, credential_sets, (rules_signature, credentials_signature))
            )
            return made

    def _put_in_force(self, state: _State) -> None:
        self._state = state
        self.revision += 1

    def _refuse_to_overwrite(self, state: _State) -> None:
        """An edit by hand that is not in force must not be lost to a change of ours."""
        if state.problem is not None:
            raise state.problem
        for file, known in zip(
            (self._rules_file, self._credentials_file), state.signatures, strict=True
        ):
            if _signature(file) != known:
                what = "It was edited by hand a moment ago and has not been read yet, so nothing is written over it."
                raise DocumentInvalid(
                    (DocumentProblem(file, None, None, what, DocumentInvalid.code),),
                    "Try again in a few seconds.",
                )

    def _load(self) -> None:
        with self._lock:
            read = self._read(known=None, existing_repositories=())
            if isinstance(read, _State):
                self._put_in_force(read)
                return
            raise DocumentInvalid(read[0], _START)

    def _edited(self) -> bool:
        state = self._state
        # A refused edit is judged again at each look: a repository that stood in its way may be
        # gone.
        return (
            state.problem is not None
            or (_signature(self._rules_file), _signature(self._credentials_file))
            != state.signatures
        )

    def _reload_if_changed(self, existing_repositories: Collection[str]) -> bool:
        with self._lock:
            state = self._state
            if not self._edited():
                return False
            read = self._read(known=state, existing_repositories=existing_repositories)
            if isinstance(read, _State):
                self._put_in_force(read)
                return state.problem is not None or (read.rules, read.credential_sets) != (
                    state.rules,
                    state.credential_sets,
                )
            problems, signatures = read
            problem = state.problem
            if problem is None or problem.problems != problems:
                problem = DocumentInvalid(problems, _STAYS)
            self._put_in_force(_State(state.rules, state.credential_sets, signatures, problem))
            return False

    def _read(
        self, *, known: _State | None, existing_repositories: Collection[str]
    ) -> _State | tuple[tuple[DocumentProblem, ...], tuple[Signature, Signature]]:
        """Both documents as one whole; or all that is wrong with them, and which versions of the
        files that was."""
        rules_file = _Document(
            self._rules_file,
            "rules",
            "rule",
            RuleRow,
            had_entries=known is not None and len(known.rules) > 0,
        )
        credentials_file = _Document(
            self._credentials_file,
            "credential_sets",
            "credential set",
            CredentialSetRow,
            had_entries=known is not None and len(known.credential_sets) > 0,
        )
        now = to_the_second(datetime.now(UTC))
        credential_sets = CredentialBook(self._registries)
        try:
            credential_sets = CredentialBook.read(
                (
                    (
                        CredentialSetDraft(
                            row.name, row.login_server, row.username_id, row.password_id
                        ),
                        row.created or _created(row.name, known, "sets") or now,
                    )
                    for row in credentials_file.rows
                ),
                self._registries,
            )
        except CredentialSetsInvalid as invalid:
            credentials_file.refuse(invalid.refusals)
        rules = RuleBook(self._registries, credential_sets)
        # Against credential sets that can't be read, every rule that uses one would be wrong too,
        # and hide what really is.
        if not credentials_file.problems:
            try:
                rules = RuleBook.read(
                    (
                        (
                            RuleDraft(
                                row.name,
                                row.source_repository,
                                row.target_repository,
                                row.credential_set,
                                row.freshness,
                            ),
                            row.created or _created(row.name, known, "rules") or now,
                        )
                        for row in rules_file.rows
                    ),
                    self._registries,
                    credential_sets,
                    known=known.rules if known is not None else None,
                    existing_repositories=existing_repositories,
                )
            except RulesInvalid as invalid:
                rules_file.refuse(invalid.refusals)
        signatures = (rules_file.signature, credentials_file.signature)
        if problems := (*rules_file.problems, *credentials_file.problems):
            return problems, signatures
        return _State(rules, credential_sets, signatures)


class _Document:
    """One document as it stands on the disk: its entries as far as they can be read, and what is
    wrong with it."""

    def __init__(
        self, file: Path, table: str, kind: str, row: type[Row], *, had_entries: bool
    ) -> None:
        self.file = file
        self.problems: list[DocumentProblem] = []
        self.rows: list[Any] = []
        self._table = table
        self._kind = kind
        self._lines: list[int | None] = []
        self.signature: Signature = None
        try:
            content, self.signature = _contents(file)
        except OSError as error:
            cure = (
                f" Let the engine's user, {user_name(os.geteuid(), before_number='user ')}, read it."
                if error.errno == errno.EACCES
                else ""
            )
            self._problem(f"It can't be read: {error.strerror}.{cure}")
            return
        place = Path(os.path.realpath(file))
        if content is None and not place.parent.is_dir() and file.is_symlink():
            # A link to a file that the engine may create is none yet. This one leads nowhere: its
            # disk is not mounted, or its store was cleaned.
            self._problem(f"It is a link to {place}, and {place.parent} is not there.")
            return
        if had_entries and not (content or b"").strip():
            # An editor may be at work, or a hand slipped. Whoever wants it empty leaves the comment
            # at its head, which the engine writes too.
            state = "is gone" if content is None else "is empty"
            self._problem(
                f"The file {state}, so the {kind}s that it held stay in force. To have none, write a line that begins with # into it."
            )
            return
        try:
            self._read(Text(content or b""), row)
        except TomlInvalid as invalid:
            self._problem(invalid.what, line=invalid.line)

    def refuse(self, refusals: Iterable[tuple[int | None, Refusal]]) -> None:
        """Take what the books refuse as problems, each with its line."""
        for position, refusal in refusals:
            if position is None:
                self._problem(refusal.message, code=refusal.code)
            else:
                self._problem(
                    refusal.message,
                    line=self._lines[position],
                    entry=self.rows[position].name,
                    code=refusal.code,
                )

    def _read(self, text: Text, row: type[Row]) -> None:
        for key, what in unknown_keys(text.values, (self._table,)):
            self._problem(
                what,
                line=text.line_of_key(key) or text.line_of_entry(key, 0) or text.line_of_table(key),
            )
        entries = text.values.get(self._table, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self._problem(
                f"Write each {self._kind} below a line [[{self._table}]].",
                line=text.line_of_table(self._table) or text.line_of_key(self._table),
            )
            return
        for number, entry in enumerate(entries):
            head = text.line_of_entry(self._table, number)
            name = entry.get("name")
            shown = name if isinstance(name, str) and name else f"number {number + 1}"
            unknown = list(unknown_keys(entry, row.__struct_fields__))
            for key, what in unknown:
                self._problem(what, line=text.line_of_key(key, below=head) or head, entry=shown)
            try:
                made = converted(
                    {key: value for key, value in entry.items() if key in row.__struct_fields__},
                    row,
                )
            except TomlInvalid as invalid:
                # The nearest key was named already when a misspelt one left a key out.
                if not unknown or invalid.key is not None:
                    self._problem(
                        invalid.what,
                        line=text.line_of_key(invalid.key or "", below=head) or head,
                        entry=shown,
                    )
            else:
                self.rows.append(made)
                self._lines.append(head)

    def _problem(
        self,
        message: str,
        *,
        line: int | None = None,
        entry: str | None = None,
        code: str = DocumentInvalid.code,
    ) -> None:
        named = f"{self._kind} {entry[:60]}" if entry else None
        self.problems.append(DocumentProblem(self.file, line, named, message, code))


def _created(name: str, known: _State | None, book: str) -> datetime | None:
    """When an entry without ``created`` came to be, if it was in force before."""
    if known is None:
        return None
    found: CacheRule | CredentialSet | None = (
        known.credential_sets.find(name) if book == "sets" else known.rules.find(name)
    )
    return found.created if found is not None else None


def _rules_document(rules: RuleBook) -> bytes:
    return _document(
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
                },
                rule.created,
            )
            for rule in rules
        ),
    )


def _credentials_document(credential_sets: CredentialBook) -> bytes:
    return _document(
        _HEADER.format(what="The credential sets", kind="a credential set")
        + "# A secret itself never stands here, only where it is kept.\n",
        "credential_sets",
        (
            (
                {
                    "name": each.name,
                    "login_server": each.login_server,
                    "username_id": str(each.username),
                    "password_id": str(each.password),
                },
                each.created,
            )
            for each in credential_sets
        ),
    )


def _document(header: str, table: str, entries: Iterable[tuple[dict[str, str], datetime]]) -> bytes:
    def parts() -> Iterator[str]:
        yield header
        for values, created in entries:
            # tomli-w would write short entries as one line of inline tables, and times without the
            # T.
            yield f"\n[[{table}]]\n{tomli_w.dumps(values)}created = {created:%Y-%m-%dT%H:%M:%SZ}\n"

    return "".join(parts()).encode()


def _contents(file: Path) -> tuple[bytes | None, Signature]:
    """A file's bytes and the signature of that very version; None and None if there is no file."""
    try:
        with file.open("rb") as opened:
            signature = _signature_of(os.fstat(opened.fileno()))
            content = opened.read(DOCUMENT_SIZE + 1)
    except FileNotFoundError:
        return None, None
    if len(content) > DOCUMENT_SIZE:
        raise OSError(0, f"it is longer than {DOCUMENT_SIZE:,} bytes")
    return content, signature


def _signature(file: Path) -> Signature:
    try:
        return _signature_of(file.stat())
    except OSError:
        return None


def _signature_of(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _obstacle(file: Path) -> tuple[str, str] | None:
    """Why a document can't be written, as part of a sentence, and what to do; None where nothing
    stands in the way. Blocks."""
    place = Path(os.path.realpath(file))
    if any(place.is_relative_to(store) for store in READABLE_STORES):
        return f"it is in {place.parent}, where nothing may be changed by hand", _EDIT
    if place.exists():
        # A file that may only be read could be replaced by another one, against the will of its
        # owner.
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
            "Set XDG_CONFIG_HOME to a directory that the engine's user can write, and start the engine again.",
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
            f"{what} belongs to {user_name(status.st_uid, before_number='user ')}, and the engine's user may only read it",
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


def _read_only(file: Path, reason: str, hint: str) -> ConfigurationReadOnly:
    place = os.path.realpath(file)
    link = f", which is a link to {place}," if file.is_symlink() else ""
    return ConfigurationReadOnly(
        f"{file}{link} can't be written: {reason}. Nothing is changed.", hint
    )


def _replace(file: Path, content: bytes) -> Signature:
    """Replace a document whole (`replace_file`); return the signature of the new version.

    Raises `EngineError` or `ConfigurationReadOnly`, and then the file is as it was.
    """
    try:
        if not file.is_symlink():
            directory = Path(os.path.realpath(file)).parent
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _signature_of(replace_file(file, content))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _read_only(
                file,
                "it is mounted alone, so no other file can take its place",
                f"{_EDIT} Or mount its whole directory.",
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise _read_only(file, error.strerror or "", _EDIT_OR_OPEN) from None
        raise EngineError(
            f"{file} can't be written: {error.strerror}. Nothing is changed.",
            "Give the engine's user the right to write there, and room on the disk.",
        ) from None
