"""Rules and credential sets out of a TOML text in the format of ``rules.toml`` and
``credentials.toml``, held against those in force. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from msgspec import Struct

from entrepot.core.credentials import (
    CredentialBook,
    CredentialSet,
    CredentialSetDraft,
    to_the_second,
)
from entrepot.core.permitted_identifiers import PermittedIdentifiers, SecretKindNotAllowed
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft
from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.core.states import ImportOutcome
from entrepot.errors import Refusal
from entrepot.toml import Text, TomlInvalid, converted, unknown_keys

PROBLEMS_IN_MESSAGE: Final = 5
"""Problems that `ImportRefused` names in its message; its result has all of them."""

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


class ImportInvalid(Refusal):
    """A part of an import's text can't be read."""

    code = "ImportInvalid"


@dataclass(frozen=True, slots=True)
class ImportTextProblem:
    """Something that is wrong with the text of an import, or with all of it together."""

    refusal: ImportInvalid
    line: int | None
    """Counted from 1; None where no line is at fault."""


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What an import does with one rule or credential set of its text."""

    name: str
    outcome: ImportOutcome
    line: int | None
    """Where the entry begins in the text, counted from 1."""
    problems: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class RuleEntryResult(EntryResult):
    """What an import does with one ``[[rules]]``; normal forms where they are valid."""

    source_repository: str | None
    target_repository: str | None
    credential_set: str | None


@dataclass(frozen=True, slots=True)
class CredentialSetEntryResult(EntryResult):
    """What an import does with one ``[[credential_sets]]``."""

    login_server: str | None
    username: SecretIdentifier | None
    """None where the text has no valid identifier: it may be the secret itself."""
    password: SecretIdentifier | None

    @property
    def runs_program(self) -> bool:
        """Whether the engine runs a program each time it signs in with this credential set."""
        return any(
            identifier is not None and identifier.runs_program
            for identifier in (self.username, self.password)
        )


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import would do, and the books as they would be. It is applied whole or not at all."""

    entries: tuple[RuleEntryResult | CredentialSetEntryResult, ...]
    """Credential sets first, then rules, each in the order of the text."""
    problems: tuple[ImportTextProblem, ...]
    """Those that belong to no entry."""
    rules: RuleBook
    credential_sets: CredentialBook

    @property
    def possible(self) -> bool:
        """Whether it can be applied."""
        return not self.problems and all(
            entry.outcome is not ImportOutcome.CONFLICT for entry in self.entries
        )


class ImportRefused(Refusal):
    """At least one entry of an import can't be created, so the import changes nothing."""

    code = "ImportRefused"
    status = 409

    def __init__(self, result: ImportResult) -> None:
        problems = [_placed(problem.refusal.message, problem.line) for problem in result.problems]
        problems += [
            _placed(f"{entry.name}: {refusal.message}", entry.line)
            for entry in result.entries
            for refusal in entry.problems
        ]
        omitted = len(problems) - PROBLEMS_IN_MESSAGE
        more = f" There are {omitted:,} more problems." if omitted > 0 else ""
        super().__init__(
            f"Nothing is imported. {' '.join(problems[:PROBLEMS_IN_MESSAGE])}{more}",
            "Fix the text, or leave out the entries that can't be created.",
        )


def read_import(
    text: str,
    rules: RuleBook,
    credential_sets: CredentialBook,
    registries: SourceRegistries,
    existing_repositories: Collection[str] = (),
) -> ImportResult:
    """Check a text against the books in force: its credential sets first, then its rules, each
    together with those before it. Raises nothing."""
    try:
        document = Text(text.encode("utf-8", "surrogatepass"))
    except TomlInvalid as invalid:
        problem = ImportTextProblem(ImportInvalid(invalid.what), invalid.line)
        return ImportResult((), (problem,), rules, credential_sets)
    problems = [
        ImportTextProblem(
            ImportInvalid(what),
            document.line_of_key(key)
            or document.line_of_entry(key, 0)
            or document.line_of_table(key),
        )
        for key, what in unknown_keys(document.values, ("rules", "credential_sets"))
    ]
    set_entries = list(_entries(document, "credential_sets", CredentialSetRow, problems))
    rule_entries = list(_entries(document, "rules", RuleRow, problems))
    if not (problems or set_entries or rule_entries):
        what = "It holds no rule and no credential set. Write each rule below a line [[rules]]."
        problems.append(ImportTextProblem(ImportInvalid(what), None))
    now = to_the_second(datetime.now(UTC))
    results: list[RuleEntryResult | CredentialSetEntryResult] = []
    for entry in set_entries:
        set_result, credential_sets = _import_set(entry, credential_sets, registries, now)
        results.append(set_result)
    rules_before, rules = rules, rules.with_credential_sets(credential_sets)
    for entry in rule_entries:
        rule_result, rules = _import_rule(
            entry, rules_before, rules, credential_sets, registries, existing_repositories, now
        )
        results.append(rule_result)
    return ImportResult(tuple(results), tuple(problems), rules, credential_sets)


def restrict_identifiers(result: ImportResult, identifiers: PermittedIdentifiers) -> ImportResult:
    """The result, with a conflict for each new credential set that has a forbidden identifier.

    Blocks (`PermittedIdentifiers.check`).
    """
    return replace(
        result, entries=tuple(_restrict_entry(entry, identifiers) for entry in result.entries)
    )


def _restrict_entry(
    entry: RuleEntryResult | CredentialSetEntryResult, identifiers: PermittedIdentifiers
) -> RuleEntryResult | CredentialSetEntryResult:
    if not isinstance(entry, CredentialSetEntryResult) or entry.outcome is not ImportOutcome.CREATE:
        return entry
    refusals = []
    for identifier, field in (
        (entry.username, "usernameSecretIdentifier"),
        (entry.password, "passwordSecretIdentifier"),
    ):
        try:
            if identifier is not None:
                identifiers.check(identifier, field=field)
        except SecretKindNotAllowed as refusal:
            refusals.append(refusal)
    if not refusals:
        return entry
    return replace(entry, outcome=ImportOutcome.CONFLICT, problems=tuple(refusals))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry as far as it can be read."""

    name: str
    line: int | None
    values: Mapping[str, Any]
    row: Any
    problems: tuple[ImportInvalid, ...]


def _entries(
    text: Text, table: str, row: type[Row], problems: list[ImportTextProblem]
) -> Iterator[_Entry]:
    entries = text.values.get(table, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        line = text.line_of_table(table) or text.line_of_key(table)
        problems.append(
            ImportTextProblem(ImportInvalid(f"Write each entry below a line [[{table}]]."), line)
        )
        return
    for number, entry in enumerate(entries):
        name = entry.get("name")
        wrong = [what for _, what in unknown_keys(entry, row.__struct_fields__)]
        converted_row: Any = None
        try:
            converted_row = converted(
                {key: value for key, value in entry.items() if key in row.__struct_fields__}, row
            )
        except TomlInvalid as invalid:
            wrong.append(invalid.what)
        yield _Entry(
            name[:60] if isinstance(name, str) and name else f"number {number + 1}",
            text.line_of_entry(table, number),
            entry,
            converted_row,
            tuple(ImportInvalid(what) for what in wrong),
        )


def _import_set(
    entry: _Entry, sets: CredentialBook, registries: SourceRegistries, now: datetime
) -> tuple[CredentialSetEntryResult, CredentialBook]:
    def result(
        outcome: ImportOutcome,
        credential_set: CredentialSet | None = None,
        problems: tuple[Refusal, ...] = (),
    ) -> CredentialSetEntryResult:
        if credential_set is not None:
            login_server: str | None = credential_set.login_server
            username: SecretIdentifier | None = credential_set.username
            password: SecretIdentifier | None = credential_set.password
        else:
            login_server = _text(entry, "login_server")
            username = _identifier(entry, "username_id")
            password = _identifier(entry, "password_id")
        return CredentialSetEntryResult(
            entry.name, outcome, entry.line, problems, login_server, username, password
        )

    if entry.problems:
        return result(ImportOutcome.CONFLICT, problems=entry.problems), sets
    draft = entry.row.draft
    existing = sets.find(entry.row.name)
    try:
        if existing is not None:
            same = CredentialBook(registries).check(draft)
            if replace(same, name=existing.name, created=existing.created) == existing:
                return result(ImportOutcome.UNCHANGED, existing), sets
        created = sets.check(draft, created=entry.row.created or now)
        return result(ImportOutcome.CREATE, created), sets.with_set(created)
    except Refusal as refusal:
        problems = sets.problems(draft).problems or (refusal,)
        return result(ImportOutcome.CONFLICT, problems=problems), sets


def _import_rule(
    entry: _Entry,
    rules_before: RuleBook,
    rules: RuleBook,
    sets: CredentialBook,
    registries: SourceRegistries,
    existing_repositories: Collection[str],
    now: datetime,
) -> tuple[RuleEntryResult, RuleBook]:
    def result(
        outcome: ImportOutcome, rule: CacheRule | None = None, problems: tuple[Refusal, ...] = ()
    ) -> RuleEntryResult:
        return RuleEntryResult(
            entry.name,
            outcome,
            entry.line,
            problems,
            str(rule.source) if rule is not None else _text(entry, "source_repository"),
            str(rule.target) if rule is not None else _text(entry, "target_repository"),
            rule.credential_set if rule is not None else _text(entry, "credential_set"),
        )

    if entry.problems:
        return result(ImportOutcome.CONFLICT, problems=entry.problems), rules
    draft = entry.row.draft
    existing = rules_before.find(entry.row.name)
    try:
        if existing is not None:
            same = RuleBook(registries, sets).check(draft)
            if (same.source, same.target, same.credential_set, same.freshness) == (
                existing.source,
                existing.target,
                existing.credential_set,
                existing.freshness,
            ):
                return result(ImportOutcome.UNCHANGED, existing), rules
        created = rules.check(
            draft, existing_repositories=existing_repositories, created=entry.row.created or now
        )
        return result(ImportOutcome.CREATE, created), rules.with_rule(created)
    except Refusal as refusal:
        problems = rules.problems(draft, existing_repositories=existing_repositories).problems
        return result(ImportOutcome.CONFLICT, problems=problems or (refusal,)), rules


def _identifier(entry: _Entry, key: str) -> SecretIdentifier | None:
    """A valid identifier of an entry that can't be created, else None: it may be the secret."""
    try:
        return SecretIdentifier.parse(_text(entry, key) or "")
    except SecretIdentifierInvalid:
        return None


def _text(entry: _Entry, key: str) -> str | None:
    value = entry.values.get(key)
    return value if isinstance(value, str) else None


def _placed(message: str, line: int | None) -> str:
    return f"Line {line}: {message}" if line is not None else message
