"""Import rules and credential sets from a TOML text. Pure: no I/O.

The text has the format of ``rules.toml`` and ``credentials.toml`` and is checked against the books
in force.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from msgspec import Struct

from entrepot.core.book import to_the_second
from entrepot.core.credentials import CredentialBook, CredentialSet, CredentialSetDraft
from entrepot.core.patterns import ExistingRepositories
from entrepot.core.permitted_identifiers import PermittedIdentifiers, SecretKindNotAllowed
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft
from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.core.states import ImportOutcome
from entrepot.errors import Refusal
from entrepot.toml import TableEntry, TomlDocument, TomlInvalid

PROBLEMS_IN_MESSAGE: Final = 5
"""Problems that `ImportRefused` names in its message; its result has all of them."""

Row = TypeVar("Row", bound=Struct)


class RuleRow(Struct, kw_only=True):
    """One ``[[rules]]`` of ``rules.toml``."""

    name: str
    source_repository: str
    target_repository: str
    credential_set: str | None = None
    freshness: str | float | None = None
    readers: tuple[str, ...] = ()
    anonymous: bool | None = None
    created: datetime | None = None

    @property
    def draft(self) -> RuleDraft:
        """The draft, with an empty credential set where the entry names none."""
        return RuleDraft(
            self.name,
            self.source_repository,
            self.target_repository,
            self.credential_set or "",
            self.freshness,
            self.readers,
            self.anonymous,
        )


class CredentialSetRow(Struct, kw_only=True):
    """One ``[[credential_sets]]`` of ``credentials.toml``."""

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
        """Whether the engine runs a program at each sign-in with this credential set."""
        return any(
            identifier is not None and identifier.runs_program
            for identifier in (self.username, self.password)
        )


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import would do, and the books after it.

    It is applied whole or not at all.
    """

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
    existing_repositories: ExistingRepositories = (),
) -> ImportResult:
    """Check a text against the books in force.

    Its credential sets come first, then its rules. Each is checked together with those before it.
    Raises nothing.
    """
    try:
        document = TomlDocument(text.encode("utf-8", "surrogatepass"))
    except TomlInvalid as invalid:
        return ImportResult((), (_text_problem(invalid),), rules, credential_sets)
    problems = [
        _text_problem(invalid) for invalid in document.unknown_keys(("rules", "credential_sets"))
    ]
    set_entries = _entries(document, "credential_sets", CredentialSetRow, problems)
    rule_entries = _entries(document, "rules", RuleRow, problems)
    if not (problems or set_entries or rule_entries):
        what = "It holds no rule and no credential set. Write each rule below a line [[rules]]."
        problems.append(ImportTextProblem(ImportInvalid(what), None))
    now = to_the_second(datetime.now(UTC))
    results: list[RuleEntryResult | CredentialSetEntryResult] = []
    for set_entry in set_entries:
        set_result, credential_sets = _import_set(set_entry, credential_sets, now)
        results.append(set_result)
    rules_before, rules = rules, rules.with_credential_sets(credential_sets)
    for rule_entry in rule_entries:
        rule_result, rules = _import_rule(
            rule_entry, rules_before, rules, existing_repositories, now
        )
        results.append(rule_result)
    return ImportResult(tuple(results), tuple(problems), rules, credential_sets)


def restrict_identifiers(result: ImportResult, identifiers: PermittedIdentifiers) -> ImportResult:
    """The result, with a conflict for each forbidden secret identifier.

    Only new credential sets count. Blocks (`PermittedIdentifiers.check`).
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


def _entries(
    document: TomlDocument, table: str, row: type[Row], problems: list[ImportTextProblem]
) -> list[TableEntry[Row]]:
    try:
        return document.table_entries(table, row)
    except TomlInvalid as invalid:
        problems.append(_text_problem(invalid))
        return []


def _import_set(
    entry: TableEntry[CredentialSetRow], sets: CredentialBook, now: datetime
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

    row = entry.row
    if row is None or entry.unknown_keys:
        return result(ImportOutcome.CONFLICT, problems=_unreadable(entry)), sets
    candidate = sets.candidate(row.draft)
    existing = sets.find(row.name)
    if existing is not None and candidate.describes(existing):
        return result(ImportOutcome.UNCHANGED, existing), sets
    if candidate.refusals:
        return result(ImportOutcome.CONFLICT, problems=tuple(candidate.refusals)), sets
    credential_set = candidate.credential_set(row.created or now)
    return result(ImportOutcome.CREATE, credential_set), sets.with_set(credential_set)


def _import_rule(
    entry: TableEntry[RuleRow],
    rules_before: RuleBook,
    rules: RuleBook,
    existing_repositories: ExistingRepositories,
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

    row = entry.row
    if row is None or entry.unknown_keys:
        return result(ImportOutcome.CONFLICT, problems=_unreadable(entry)), rules
    candidate = rules.candidate(row.draft, existing_repositories=existing_repositories)
    existing = rules_before.find(row.name)
    if existing is not None and candidate.describes(existing):
        return result(ImportOutcome.UNCHANGED, existing), rules
    if candidate.refusals:
        return result(ImportOutcome.CONFLICT, problems=tuple(candidate.refusals)), rules
    rule = candidate.rule(row.created or now)
    return result(ImportOutcome.CREATE, rule), rules.with_rule(rule)


def _unreadable(entry: TableEntry[Row]) -> tuple[ImportInvalid, ...]:
    """What is wrong with the keys and values of an entry."""
    invalid_parts = (*entry.unknown_keys, *((entry.misfit,) if entry.misfit is not None else ()))
    return tuple(ImportInvalid(invalid.what) for invalid in invalid_parts)


def _text_problem(invalid: TomlInvalid) -> ImportTextProblem:
    return ImportTextProblem(ImportInvalid(invalid.what), invalid.line)


def _identifier(entry: TableEntry[CredentialSetRow], key: str) -> SecretIdentifier | None:
    """A valid secret identifier, else None: the text may be the secret itself."""
    try:
        return SecretIdentifier.parse(_text(entry, key) or "")
    except SecretIdentifierInvalid:
        return None


def _text(entry: TableEntry[Row], key: str) -> str | None:
    value = entry.values.get(key)
    return value if isinstance(value, str) else None


def _placed(message: str, line: int | None) -> str:
    return f"Line {line}: {message}" if line is not None else message
