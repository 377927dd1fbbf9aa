"""Cache rules and credential sets as TOML documents, replaced whole; hand edits are noticed.

``rules.toml`` and ``credentials.toml`` belong to the engine. The state in force was always valid as
a whole: an edit by hand that breaks a limit is refused as a whole, `Documents.problem` says why,
and the last valid state stays.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

import tomli_w
from msgspec import UNSET, UnsetType

from entrepot.causes import user_name
from entrepot.config.settings import Directories
from entrepot.core.book import to_the_second
from entrepot.core.credentials import (
    CredentialBook,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetsInvalid,
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
from entrepot.toml import ENTRY_NAME_LENGTH, TomlDocument, TomlInvalid

DOCUMENT_SIZE: Final = 8 * 1024 * 1024
"""The largest document that is read, in bytes; 1,000 rules with the longest names take 0.7 MB."""

LOCK_TIMEOUT: Final = 10.0
"""How long a change waits for another one to be written, in seconds.

That takes milliseconds unless the disk hangs.
"""

PROBLEMS_IN_MESSAGE: Final = 5
"""Problems that `DocumentInvalid` names in its message; ``problems`` has all of them."""

_FIX: Final = (
    "Fix the file: until then, what was read before stays in force, and nothing is written over it."
)
_FIX_AND_START: Final = "Fix the file and start again."

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
Result = TypeVar("Result")


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


@dataclass(frozen=True, slots=True)
class _State:
    """The rules and credential sets in force.

    Replaced whole, so that a reader in another thread never sees half a change.
    """

    rules: RuleBook
    credential_sets: CredentialBook
    signatures: tuple[Signature, Signature]
    """Those of ``rules.toml`` and ``credentials.toml`` as they were read or written."""
    problem: DocumentInvalid | None = None


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Why documents can't be put in force, and which versions of the files these were."""

    problems: tuple[DocumentProblem, ...]
    signatures: tuple[Signature, Signature]


class Documents:
    """The two documents of one engine, and the books in force.

    Every change is one piece of work in a thread under one lock: check, write, put in force. The
    task that waits for it may be cancelled; the work goes on, so file and memory stay the same.
    """

    def __init__(self, directories: Directories, registries: SourceRegistries) -> None:
        self._rules_file = directories.rules
        self._credentials_file = directories.credentials
        self._registries = registries
        credential_sets = CredentialBook(registries)
        self._state = _State(RuleBook(registries, credential_sets), credential_sets, (None, None))
        self._lock = threading.Lock()
        self.revision = 0
        """Grows with every change of the state in force."""

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
        """Why the documents on the disk are not in force; None when they are.

        It stays the same object until something else is wrong.
        """
        return self._state.problem

    async def load(self) -> None:
        """Read both documents at the start; a missing one is empty. Raises `DocumentInvalid`."""
        await asyncio.to_thread(self._load)

    async def edited(self) -> bool:
        """Whether a hand edit has to be read, or a refused one read again; costs two stat(2)."""
        return await asyncio.to_thread(self._edited)

    async def reload_if_changed(self, existing_repositories: Collection[str] = ()) -> bool:
        """Put a hand edit in force; return whether the state in force changed.

        Where it is refused, `problem` says why and the state in force stays. The target of a new
        rule must not be among *existing_repositories*.
        """
        return await asyncio.to_thread(self._reload_if_changed, existing_repositories)

    async def create_rule(
        self, draft: RuleDraft, existing_repositories: Collection[str] = ()
    ) -> CacheRule:
        """Create a cache rule; raises a `Refusal`, and then nothing is changed."""

        def create(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            rule = state.rules.parse(draft, existing_repositories=existing_repositories)
            return rule, state.rules.with_rule(rule), state.credential_sets

        return await self._change(create)

    async def update_rule(
        self,
        name: str,
        credential_set: str | UnsetType | None = UNSET,
        *,
        freshness: str | float | UnsetType | None = UNSET,
    ) -> CacheRule:
        """Change the credential set and the tag lifetime of a rule.

        None takes the credential set away, or leaves the tag lifetime to the settings; UNSET leaves
        one as it is. Raises `CacheRuleNotFound` or a `Refusal`.
        """

        def update(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            rules = state.rules
            if credential_set is not UNSET:
                rules = rules.with_credential_set(name, credential_set)
            if freshness is not UNSET:
                rules = rules.with_freshness(name, freshness)
            return rules.get(name), rules, state.credential_sets

        return await self._change(update)

    async def delete_rule(self, name: str) -> CacheRule:
        """Delete a rule and return it; raises `CacheRuleNotFound`."""

        def delete(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            return state.rules.get(name), state.rules.without(name), state.credential_sets

        return await self._change(delete)

    async def create_credential_set(self, draft: CredentialSetDraft) -> CredentialSet:
        """Create a credential set; raises a `Refusal`, and then nothing is changed."""

        def create(state: _State) -> tuple[CredentialSet, RuleBook, CredentialBook]:
            credential_set = state.credential_sets.parse(draft)
            sets = state.credential_sets.with_set(credential_set)
            return credential_set, state.rules.with_credential_sets(sets), sets

        return await self._change(create)

    async def update_credential_set(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialSet:
        """Change the secret identifiers of a credential set; None leaves one as it is.

        Raises `CredentialSetNotFound` or a `Refusal`.
        """

        def update(state: _State) -> tuple[CredentialSet, RuleBook, CredentialBook]:
            sets = state.credential_sets.with_identifiers(
                name, username_id=username_id, password_id=password_id
            )
            return sets.get(name), state.rules.with_credential_sets(sets), sets

        return await self._change(update)

    async def delete_credential_set(self, name: str) -> CredentialSet:
        """Delete a credential set and return it.

        Raises `CredentialSetNotFound`, or `CredentialSetInUse` if a rule uses it.
        """

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
            existing_repositories,
        )

    async def apply_import(
        self, text: str, existing_repositories: Collection[str] = ()
    ) -> ImportResult:
        """Create the rules and credential sets of a TOML text, all or none of them.

        Raises `ImportRefused` or `DocumentInvalid`.
        """

        def apply(state: _State) -> tuple[ImportResult, RuleBook, CredentialBook]:
            result = read_import(text, state.rules, state.credential_sets, existing_repositories)
            if not result.possible:
                raise ImportRefused(result)
            return result, result.rules, result.credential_sets

        return await self._change(apply)

    async def _change(
        self, change: Callable[[_State], tuple[Result, RuleBook, CredentialBook]]
    ) -> Result:
        return await asyncio.to_thread(self._change_now, change)

    # What follows runs in a thread, under the lock.

    @contextmanager
    def _lock_for_change(self) -> Iterator[None]:
        """Hold the lock; raises `EngineError` while another change hangs on its disk.

        Otherwise each waiting change would hold a thread.
        """
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
        self, change: Callable[[_State], tuple[Result, RuleBook, CredentialBook]]
    ) -> Result:
        with self._lock_for_change():
            state = self._state
            self._refuse_to_overwrite(state)
            result, rules, credential_sets = change(state)
            rules_signature, credentials_signature = state.signatures
            # The credential sets first: if the engine is killed in between, every rule still has
            # the credential set that it uses.
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
                        credentials_signature = _replace(
                            self._credentials_file,
                            before or _credentials_document(state.credential_sets),
                        )
                        signatures = (rules_signature, credentials_signature)
                        self._put_in_force(_State(state.rules, state.credential_sets, signatures))
                    raise
            self._put_in_force(
                _State(rules, credential_sets, (rules_signature, credentials_signature))
            )
            return result

    def _put_in_force(self, state: _State) -> None:
        self._state = state
        self.revision += 1

    def _refuse_to_overwrite(self, state: _State) -> None:
        """Raise `DocumentInvalid` where a change would overwrite a hand edit not yet in force."""
        if state.problem is not None:
            raise state.problem
        for file, signature in zip(
            (self._rules_file, self._credentials_file), state.signatures, strict=True
        ):
            if _signature(file) != signature:
                what = (
                    "It was edited by hand a moment ago and has not been read yet, so nothing is "
                    "written over it."
                )
                raise DocumentInvalid(
                    (DocumentProblem(file, None, None, what, DocumentInvalid.code),),
                    "Try again in a few seconds.",
                )

    def _load(self) -> None:
        with self._lock:
            outcome = self._read(current=None, existing_repositories=())
            if isinstance(outcome, _Unusable):
                raise DocumentInvalid(outcome.problems, _FIX_AND_START)
            self._put_in_force(outcome)

    def _edited(self) -> bool:
        state = self._state
        # A refused edit is read again each time: the repository that was in its way may be deleted.
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
            outcome = self._read(current=state, existing_repositories=existing_repositories)
            if isinstance(outcome, _State):
                self._put_in_force(outcome)
                return state.problem is not None or (outcome.rules, outcome.credential_sets) != (
                    state.rules,
                    state.credential_sets,
                )
            problem = state.problem
            if problem is None or problem.problems != outcome.problems:
                problem = DocumentInvalid(outcome.problems, _FIX)
            self._put_in_force(
                _State(state.rules, state.credential_sets, outcome.signatures, problem)
            )
            return False

    def _read(
        self, *, current: _State | None, existing_repositories: Collection[str]
    ) -> _State | _Unusable:
        """Read both documents as one whole."""
        rules_file = _DocumentFile(
            self._rules_file,
            "rules",
            "rule",
            RuleRow,
            had_entries=current is not None and len(current.rules) > 0,
        )
        credentials_file = _DocumentFile(
            self._credentials_file,
            "credential_sets",
            "credential set",
            CredentialSetRow,
            had_entries=current is not None and len(current.credential_sets) > 0,
        )
        now = to_the_second(datetime.now(UTC))
        credential_sets = CredentialBook(self._registries)
        try:
            credential_sets = CredentialBook.read(
                (
                    (
                        row.draft,
                        row.created
                        or (_created(row.name, current.credential_sets) if current else None)
                        or now,
                    )
                    for row in credentials_file.rows
                ),
                self._registries,
            )
        except CredentialSetsInvalid as invalid:
            credentials_file.add_refusals(invalid.refusals)
        rules = RuleBook(self._registries, credential_sets)
        # Against credential sets that can't be read, every rule that uses one would be wrong too,
        # and hide what really is.
        if not credentials_file.problems:
            try:
                rules = RuleBook.read(
                    (
                        (
                            row.draft,
                            row.created
                            or (_created(row.name, current.rules) if current else None)
                            or now,
                        )
                        for row in rules_file.rows
                    ),
                    self._registries,
                    credential_sets,
                    current=current.rules if current is not None else None,
                    existing_repositories=existing_repositories,
                )
            except RulesInvalid as invalid:
                rules_file.add_refusals(invalid.refusals)
        signatures = (rules_file.signature, credentials_file.signature)
        if problems := (*rules_file.problems, *credentials_file.problems):
            return _Unusable(problems, signatures)
        return _State(rules, credential_sets, signatures)


class _DocumentFile(Generic[Row]):
    """One document as it is on the disk: the entries that can be read, and what is wrong."""

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
            content, self.signature = _contents(file)
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
                f"The file {state}, so the {kind}s that it held stay in force. To have none, write "
                "a line that begins with # into it."
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


def _created(name: str, book: RuleBook | CredentialBook) -> datetime | None:
    """When the item of that name in a book was created; for an entry without ``created``."""
    item = book.find(name)
    return item.created if item is not None else None


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


def _document(header: str, table: str, entries: Iterable[tuple[dict[str, str], datetime]]) -> bytes:
    def parts() -> Iterator[str]:
        yield header
        for values, created in entries:
            # tomli-w would write short entries as one line of inline tables, and times without the
            # T.
            yield f"\n[[{table}]]\n{tomli_w.dumps(values)}created = {created:%Y-%m-%dT%H:%M:%SZ}\n"

    return "".join(parts()).encode()


def _contents(file: Path) -> tuple[bytes | None, Signature]:
    """The bytes of a file and the signature of that version; None and None if there is none."""
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
    """Why a document can't be written, as part of a sentence, and what to do; else None. Blocks."""
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
