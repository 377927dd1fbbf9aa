"""Cache rules and credential sets as TOML documents, replaced whole.

Hand edits are noticed. ``rules.toml`` and ``credentials.toml`` belong to the engine. The state in
force was always valid as a whole: an edit by hand that breaks a limit is refused as a whole,
`Documents.problem` says why, and the last valid state stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from msgspec import UNSET, UnsetType

from entrepot.config.directories import Directories
from entrepot.config.document_files import (
    ConfigurationReadOnly,
    DocumentFile,
    DocumentInvalid,
    DocumentProblem,
    Signature,
    current_signature,
    read_document,
    read_only_error,
    render_credential_sets,
    render_rules,
    write_document,
    write_obstacle,
)
from entrepot.config.restrictions import RestrictionRecord
from entrepot.core.book import to_the_second
from entrepot.core.credentials import (
    CredentialBook,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetsInvalid,
)
from entrepot.core.patterns import ExistingRepositories, TargetRepository
from entrepot.core.readers import ReaderAccess, parse_readers
from entrepot.core.registries import SourceRegistries
from entrepot.core.restrictions import NO_RESTRICTIONS, Restrictions
from entrepot.core.rule_import import (
    CredentialSetRow,
    ImportRefused,
    ImportResult,
    RuleRow,
    read_import,
)
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft, RulesInvalid
from entrepot.errors import EngineError

LOCK_TIMEOUT: Final = 10.0
"""How long a change waits for another one to be written, in seconds.

That takes milliseconds unless the disk hangs.
"""

_FIX: Final = (
    "Fix the file: until then, what was read before stays in force, and nothing is written over it."
)
_FIX_AND_START: Final = "Fix the file and start again."

Result = TypeVar("Result")


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

    def __init__(
        self,
        directories: Directories,
        registries: SourceRegistries,
        restrictions: RestrictionRecord | None = None,
    ) -> None:
        """*restrictions* records who may read what rules and deleted rules cached."""
        self._restrictions = restrictions
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

    def access(self, repository: str) -> ReaderAccess:
        """Who may read a repository, also one whose rule was deleted."""
        restrictions = self._restrictions.current if self._restrictions is not None else None
        return (restrictions or NO_RESTRICTIONS).access(repository, self._state.rules)

    @property
    def left_restrictions(self) -> Restrictions:
        """The restrictions of deleted rules."""
        if self._restrictions is None:
            return NO_RESTRICTIONS
        return self._restrictions.current.without_rule(self._state.rules)

    async def prune_restrictions(self, is_needed: Callable[[TargetRepository], bool]) -> None:
        """Drop the restrictions of deleted rules that *is_needed* denies; it may block."""
        await asyncio.to_thread(self._prune_restrictions, is_needed)

    @property
    def problem(self) -> DocumentInvalid | None:
        """Why the documents on the disk are not in force; None when they are.

        It stays the same object until something else is wrong.
        """
        return self._state.problem

    async def load(self) -> None:
        """Read both documents at the start; a missing one is empty.

        Raises `DocumentInvalid`.
        """
        await asyncio.to_thread(self._load)

    async def edited(self) -> bool:
        """Whether a hand edit has to be read, or a refused one read again (two stat(2))."""
        return await asyncio.to_thread(self._edited)

    async def reload_if_changed(self, existing_repositories: ExistingRepositories = ()) -> bool:
        """Put a hand edit in force; return whether the state in force changed.

        Where it is refused, `problem` says why and the state in force stays. The target of a new
        rule must not be among *existing_repositories*.
        """
        return await asyncio.to_thread(self._reload_if_changed, existing_repositories)

    async def create_rule(
        self, draft: RuleDraft, existing_repositories: ExistingRepositories = ()
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
        readers: Sequence[str] | UnsetType = UNSET,
        anonymous: bool | UnsetType | None = UNSET,
    ) -> CacheRule:
        """Change the credential set, the tag lifetime and the readers of a rule.

        None takes the credential set away, or leaves the tag lifetime or anonymous readers to the
        settings; UNSET leaves one as it is. Raises `CacheRuleNotFound` or a `Refusal`.
        """

        def update(state: _State) -> tuple[CacheRule, RuleBook, CredentialBook]:
            rules = state.rules
            if credential_set is not UNSET:
                rules = rules.with_credential_set(name, credential_set)
            if freshness is not UNSET:
                rules = rules.with_freshness(name, freshness)
            if readers is not UNSET or anonymous is not UNSET:
                access = rules.get(name).access
                access = ReaderAccess(
                    access.readers if readers is UNSET else parse_readers(readers),
                    access.anonymous if anonymous is UNSET else anonymous,
                )
                rules = rules.with_access(name, access)
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
        self, text: str, existing_repositories: ExistingRepositories = ()
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
        self, text: str, existing_repositories: ExistingRepositories = ()
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
                if is_new and (obstacle := write_obstacle(file)) is not None:
                    raise read_only_error(file, *obstacle)
            before = read_document(self._credentials_file)[0] if new_sets else None
            if self._restrictions is not None:
                self._restrictions.write_before(rules)
            if new_sets:
                credentials_signature = write_document(
                    self._credentials_file, render_credential_sets(credential_sets)
                )
            if rules != state.rules:
                try:
                    rules_signature = write_document(self._rules_file, render_rules(rules))
                except (EngineError, ConfigurationReadOnly):
                    if new_sets:
                        credentials_signature = write_document(
                            self._credentials_file,
                            before or render_credential_sets(state.credential_sets),
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
        """Raise `DocumentInvalid` if a change would overwrite a hand edit."""
        if state.problem is not None:
            raise state.problem
        for file, signature in zip(
            (self._rules_file, self._credentials_file), state.signatures, strict=True
        ):
            if current_signature(file) != signature:
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
            if self._restrictions is not None:
                self._restrictions.load(outcome.rules)
            self._put_in_force(outcome)

    def _prune_restrictions(self, is_needed: Callable[[TargetRepository], bool]) -> None:
        with self._lock_for_change():
            if self._restrictions is not None:
                self._restrictions.prune(self._state.rules, is_needed)

    def _edited(self) -> bool:
        state = self._state
        # A refused edit is read again each time: the repository that was in its way may be deleted.
        return (
            state.problem is not None
            or (current_signature(self._rules_file), current_signature(self._credentials_file))
            != state.signatures
        )

    def _reload_if_changed(self, existing_repositories: ExistingRepositories) -> bool:
        with self._lock:
            state = self._state
            if not self._edited():
                return False
            outcome = self._read(current=state, existing_repositories=existing_repositories)
            if isinstance(outcome, _State):
                if self._restrictions is not None:
                    self._restrictions.follow(outcome.rules)
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
        self, *, current: _State | None, existing_repositories: ExistingRepositories
    ) -> _State | _Unusable:
        """Read both documents as one whole."""
        rules_before = current.rules if current is not None else None
        sets_before = current.credential_sets if current is not None else None
        rules_file = DocumentFile(
            self._rules_file, "rules", "rule", RuleRow, had_entries=bool(rules_before)
        )
        credentials_file = DocumentFile(
            self._credentials_file,
            "credential_sets",
            "credential set",
            CredentialSetRow,
            had_entries=bool(sets_before),
        )
        now = to_the_second(datetime.now(UTC))
        credential_sets = CredentialBook(self._registries)
        try:
            credential_sets = CredentialBook.read(
                ((row.draft, _created(row, sets_before, now)) for row in credentials_file.rows),
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
                    ((row.draft, _created(row, rules_before, now)) for row in rules_file.rows),
                    self._registries,
                    credential_sets,
                    current=rules_before,
                    existing_repositories=existing_repositories,
                )
            except RulesInvalid as invalid:
                rules_file.add_refusals(invalid.refusals)
        signatures = (rules_file.signature, credentials_file.signature)
        if problems := (*rules_file.problems, *credentials_file.problems):
            return _Unusable(problems, signatures)
        return _State(rules, credential_sets, signatures)


def _created(
    row: RuleRow | CredentialSetRow, before: RuleBook | CredentialBook | None, now: datetime
) -> datetime:
    """The time of creation that an entry states, else that of the entry in force, else *now*."""
    if row.created is not None:
        return row.created
    item = before.find(row.name) if before is not None else None
    return item.created if item is not None else now
