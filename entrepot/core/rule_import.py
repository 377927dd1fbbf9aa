"""Rules and credential sets out of a TOML text in the format of ``rules.toml`` and
``credentials.toml``, held against those in force. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from entrepot.api.models import ImportEntry, ImportPlan, ImportProblem, Problem
from entrepot.core.credentials import (
    CredentialBook,
    CredentialSet,
    CredentialSetDraft,
    problems_of,
    to_the_second,
)
from entrepot.core.permitted_identifiers import PermittedIdentifiers, SecretKindNotAllowed
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft
from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.core.states import ImportOutcome
from entrepot.errors import Refusal
from entrepot.toml import Text, TomlInvalid, converted, unknown_keys

SHOWN: Final = 5
"""So many problems are told in a message; the plan has them all."""

INVALID: Final = "ImportInvalid"
"""The code of what can't be read."""

Row = TypeVar("Row", bound=Struct)


class RuleRow(Struct, kw_only=True):
    """A ``[[rules]]`` of ``rules.toml``."""

    name: str
    source_repository: str
    target_repository: str
    credential_set: str | None = None
    freshness: str | float | None = None
    created: datetime | None = None

    @property
    def draft(self) -> RuleDraft:
        """As a person types it."""
        return RuleDraft(
            self.name,
            self.source_repository,
            self.target_repository,
            self.credential_set or "",
            self.freshness,
        )


class CredentialSetRow(Struct, kw_only=True):
    """A ``[[credential_sets]]`` of ``credentials.toml``."""

    name: str
    login_server: str
    username_id: str
    password_id: str
    created: datetime | None = None

    @property
    def draft(self) -> CredentialSetDraft:
        """As a person types it."""
        return CredentialSetDraft(self.name, self.login_server, self.username_id, self.password_id)


class ImportRefused(Refusal):
    """Something of an import can't be made, so nothing of it is."""

    code = "ImportRefused"
    status = 409

    def __init__(self, plan: ImportPlan) -> None:
        told = [_placed(each.message, each.line) for each in plan.problems]
        told += [
            _placed(f"{each.name}: {problem.message}", each.line)
            for each in plan.entries
            for problem in each.problems
        ]
        more = f" There are {len(told) - SHOWN:,} more problems." if len(told) > SHOWN else ""
        super().__init__(
            f"Nothing is imported. {' '.join(told[:SHOWN])}{more}",
            "Mend the text, or leave out what can't be.",
        )


@dataclass(frozen=True, slots=True)
class Import:
    """What an import would do, and the books as they would be."""

    plan: ImportPlan
    rules: RuleBook
    credential_sets: CredentialBook


def read_import(
    text: str,
    rules: RuleBook,
    credential_sets: CredentialBook,
    registries: SourceRegistries,
    existing_repositories: Collection[str] = (),
) -> Import:
    """Hold a text against what is in force: its credential sets first, then its rules, each beside
    those before it. Nothing is raised."""
    try:
        read = Text(text.encode("utf-8", "surrogatepass"))
    except TomlInvalid as invalid:
        return Import(
            ImportPlan(
                entries=(),
                problems=(ImportProblem(code=INVALID, message=invalid.what, line=invalid.line),),
            ),
            rules,
            credential_sets,
        )
    problems: list[ImportProblem] = []
    for key, what in unknown_keys(read.values, ("rules", "credential_sets")):
        problems.append(
            ImportProblem(
                code=INVALID,
                message=what,
                line=read.line_of_key(key) or read.line_of_entry(key, 0) or read.line_of_table(key),
            )
        )
    sets_read = list(_entries(read, "credential_sets", CredentialSetRow, problems))
    rules_read = list(_entries(read, "rules", RuleRow, problems))
    if not (problems or sets_read or rules_read):
        problems.append(
            ImportProblem(
                code=INVALID,
                message="It holds no rule and no credential set. Write each rule below a line [[rules]].",
            )
        )
    now = to_the_second(datetime.now(UTC))
    entries: list[ImportEntry] = []
    for each in sets_read:
        entry, credential_sets = _judge_set(each, credential_sets, registries, now)
        entries.append(entry)
    before, rules = rules, rules.with_credential_sets(credential_sets)
    for each in rules_read:
        entry, rules = _judge_rule(
            each, before, rules, credential_sets, registries, existing_repositories, now
        )
        entries.append(entry)
    return Import(
        ImportPlan(entries=tuple(entries), problems=tuple(problems)), rules, credential_sets
    )


def permitted_plan(plan: ImportPlan, identifiers: PermittedIdentifiers) -> ImportPlan:
    """The plan, with a conflict for each credential set that would be made and of which an
    identifier is not permitted. Blocks (see there)."""
    return msgspec.structs.replace(
        plan, entries=tuple(_permitted(each, identifiers) for each in plan.entries)
    )


def _permitted(entry: ImportEntry, identifiers: PermittedIdentifiers) -> ImportEntry:
    if entry.outcome is not ImportOutcome.CREATE:
        return entry
    refusals = []
    for text, field in (
        (entry.username_id, "usernameSecretIdentifier"),
        (entry.password_id, "passwordSecretIdentifier"),
    ):
        try:
            if text is not None:
                identifiers.check(SecretIdentifier.parse(text), field=field)
        except SecretKindNotAllowed as refusal:
            refusals.append(refusal)
    if not refusals:
        return entry
    return msgspec.structs.replace(
        entry, outcome=ImportOutcome.CONFLICT, problems=problems_of(refusals)
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """An entry as far as it can be read."""

    name: str
    line: int | None
    values: Mapping[str, Any]
    row: Any
    problems: tuple[Problem, ...]


def _entries(
    text: Text, table: str, row: type[Row], problems: list[ImportProblem]
) -> Iterator[_Read]:
    entries = text.values.get(table, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        line = text.line_of_table(table) or text.line_of_key(table)
        problems.append(
            ImportProblem(
                code=INVALID, message=f"Write each entry below a line [[{table}]].", line=line
            )
        )
        return
    for number, entry in enumerate(entries):
        name = entry.get("name")
        wrong = [what for _, what in unknown_keys(entry, row.__struct_fields__)]
        made: Any = None
        try:
            made = converted(
                {key: value for key, value in entry.items() if key in row.__struct_fields__}, row
            )
        except TomlInvalid as invalid:
            wrong.append(invalid.what)
        shown = name[:60] if isinstance(name, str) and name else f"number {number + 1}"
        yield _Read(
            shown,
            text.line_of_entry(table, number),
            entry,
            made,
            tuple(Problem(code=INVALID, message=what) for what in wrong),
        )


def _judge_set(
    read: _Read, sets: CredentialBook, registries: SourceRegistries, now: datetime
) -> tuple[ImportEntry, CredentialBook]:
    def entry(
        outcome: ImportOutcome,
        made: CredentialSet | None = None,
        problems: tuple[Problem, ...] = (),
    ) -> ImportEntry:
        identifiers = (
            (made.username, made.password)
            if made is not None
            else (_identifier(read, "username_id"), _identifier(read, "password_id"))
        )
        username, password = (None if each is None else str(each) for each in identifiers)
        return ImportEntry(
            kind="credentialSet",
            name=read.name,
            outcome=outcome,
            line=read.line,
            login_server=made.login_server if made is not None else _text(read, "login_server"),
            username_id=username,
            password_id=password,
            runs_program=any(each is not None and each.runs_program for each in identifiers),
            problems=problems,
        )

    if read.problems:
        return entry(ImportOutcome.CONFLICT, problems=read.problems), sets
    draft = read.row.draft
    there = sets.find(read.row.name)
    try:
        if there is not None:
            wanted = CredentialBook(registries).check(draft)
            if replace(wanted, name=there.name, created=there.created) == there:
                return entry(ImportOutcome.UNCHANGED, there), sets
        made = sets.check(draft, created=read.row.created or now)
        return entry(ImportOutcome.CREATE, made), sets.with_set(made)
    except Refusal as refusal:
        return entry(
            ImportOutcome.CONFLICT, problems=sets.problems(draft).problems or problems_of([refusal])
        ), sets


def _judge_rule(
    read: _Read,
    before: RuleBook,
    rules: RuleBook,
    sets: CredentialBook,
    registries: SourceRegistries,
    existing_repositories: Collection[str],
    now: datetime,
) -> tuple[ImportEntry, RuleBook]:
    def entry(
        outcome: ImportOutcome, made: CacheRule | None = None, problems: tuple[Problem, ...] = ()
    ) -> ImportEntry:
        return ImportEntry(
            kind="rule",
            name=read.name,
            outcome=outcome,
            line=read.line,
            source_repository=str(made.source)
            if made is not None
            else _text(read, "source_repository"),
            target_repository=str(made.target)
            if made is not None
            else _text(read, "target_repository"),
            credential_set=made.credential_set
            if made is not None
            else _text(read, "credential_set"),
            problems=problems,
        )

    if read.problems:
        return entry(ImportOutcome.CONFLICT, problems=read.problems), rules
    draft = read.row.draft
    there = before.find(read.row.name)
    try:
        if there is not None:
            wanted = RuleBook(registries, sets).check(draft)
            same = (wanted.source, wanted.target, wanted.credential_set, wanted.freshness) == (
                there.source,
                there.target,
                there.credential_set,
                there.freshness,
            )
            if same:
                return entry(ImportOutcome.UNCHANGED, there), rules
        made = rules.check(
            draft, existing_repositories=existing_repositories, created=read.row.created or now
        )
        return entry(ImportOutcome.CREATE, made), rules.with_rule(made)
    except Refusal as refusal:
        problems = rules.problems(draft, existing_repositories=existing_repositories).problems
        return entry(ImportOutcome.CONFLICT, problems=problems or problems_of([refusal])), rules


def _identifier(read: _Read, key: str) -> SecretIdentifier | None:
    """An identifier of an entry that can't be made. What is none is not shown: it may be the secret
    itself."""
    try:
        return SecretIdentifier.parse(_text(read, key) or "")
    except SecretIdentifierInvalid:
        return None


def _text(read: _Read, key: str) -> str | None:
    value = read.values.get(key)
    return value if isinstance(value, str) else None


def _placed(message: str, line: int | None) -> str:
    return f"Line {line}: {message}" if line is not None else message
