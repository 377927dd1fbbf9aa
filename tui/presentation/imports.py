"""The plan or the result of an import, as rows and sentences."""

from __future__ import annotations

from entrepot.api.labels import IMPORT_LABELS
from entrepot.api.models import ImportEntry, ImportPlan
from entrepot.core.states import ImportOutcome
from entrepot.formatting import counted
from tui.presentation.secrets import is_program
from widgets.row_list import Cell, Row

_TONES = {
    ImportOutcome.CREATE: "good",
    ImportOutcome.UNCHANGED: "dim",
    ImportOutcome.CONFLICT: "bad",
}

_KINDS = {"rule": "cache rule", "credentialSet": "credential set"}


def plan_rows(plan: ImportPlan) -> list[Row]:
    """The rows of a plan: problems of the text as a whole, then its entries."""
    rows = [
        Row(
            f"problem {number}",
            (
                Cell(IMPORT_LABELS[ImportOutcome.CONFLICT], "bad"),
                Cell("the text"),
                Cell(problem.message, "dim"),
                Cell(_line(problem.line)),
            ),
        )
        for number, problem in enumerate(plan.problems)
    ]
    for number, entry in enumerate(plan.entries):
        word, tone = IMPORT_LABELS[entry.outcome], _TONES[entry.outcome]
        rows.append(
            Row(
                f"entry {number}",
                (
                    Cell(word, tone),
                    Cell(entry.name, "accent"),
                    Cell(_description(entry), "warn" if entry.runs_program else ""),
                    Cell(_line(entry.line)),
                ),
            )
        )
    return rows


def first_conflict(plan: ImportPlan) -> str | None:
    """The key of the first row that prevents the import."""
    if plan.problems:
        return "problem 0"
    return next(
        (
            f"entry {number}"
            for number, entry in enumerate(plan.entries)
            if entry.outcome is ImportOutcome.CONFLICT
        ),
        None,
    )


def plan_summary(plan: ImportPlan) -> str:
    """What an import would create, or why it can't be done, in a sentence."""
    if not plan.entries and not plan.problems:
        return "It has no cache rule and no credential set."
    conflicts = plan.count(ImportOutcome.CONFLICT) + len(plan.problems)
    if conflicts:
        return f"Nothing can be created: {counted(conflicts, 'conflict')}."
    unchanged = plan.count(ImportOutcome.UNCHANGED)
    created = _created(plan)
    if not created:
        return "All of it exists already: there is nothing to create."
    rest = f"; {counted(unchanged, 'entry', 'entries')} unchanged" if unchanged else ""
    programs = len(plan.runs_programs)
    runs = (
        f" {counted(programs, 'credential set runs', 'credential sets run')} a program."
        if programs
        else ""
    )
    return f"{created} will be created{rest}.{runs}"


def applied_summary(plan: ImportPlan) -> str:
    """What was created, in a sentence."""
    created = _created(plan)
    return f"Created {created}." if created else "Nothing had to be created."


def entry_lines(plan: ImportPlan, key: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The details of a row: sentences, and its problems with their codes."""
    kind, _, number = key.partition(" ")
    if kind == "problem":
        problem = plan.problems[int(number)]
        return (), (
            (
                f"Line {problem.line}: {problem.message}" if problem.line else problem.message,
                problem.code,
            ),
        )
    entry = plan.entries[int(number)]
    place = f"Line {entry.line}: " if entry.line else ""
    description = f"{place}{_KINDS[entry.kind]} {entry.name}"
    if entry.kind == "rule" and entry.source_repository and entry.target_repository:
        signs_in = f", signs in with {entry.credential_set}" if entry.credential_set else ""
        description += f": {entry.source_repository} appears as {entry.target_repository}{signs_in}"
    elif entry.login_server:
        description += f" for {entry.login_server}"
    if entry.username_id or entry.password_id:
        description += f", user name from {entry.username_id or 'nowhere'}"
        description += f", password from {entry.password_id or 'nowhere'}"
    if entry.runs_program:
        description += ". The engine runs a program each time it signs in with it"
    exists = " The same exists already." if entry.outcome is ImportOutcome.UNCHANGED else ""
    return (f"{description}.{exists}",), tuple(
        (f"{place}{problem.message}", problem.code) for problem in entry.problems
    )


def programs_text(plan: ImportPlan) -> str:
    """The programs that the engine would run.

    One line for each credential set and identifier.
    """
    identifiers = (
        (entry, identifier)
        for entry in plan.runs_programs
        for identifier in (entry.username_id, entry.password_id)
    )
    return "\n".join(
        f"{entry.name}: {identifier}"
        for entry, identifier in identifiers
        if identifier is not None and is_program(identifier)
    )


def _created(plan: ImportPlan) -> str:
    kinds = [entry.kind for entry in plan.entries if entry.outcome is ImportOutcome.CREATE]
    parts = [
        counted(kinds.count(kind), one, many)
        for kind, one, many in (
            ("rule", "cache rule", "cache rules"),
            ("credentialSet", "credential set", "credential sets"),
        )
        if kind in kinds
    ]
    return " and ".join(parts)


def _description(entry: ImportEntry) -> str:
    if entry.kind == "rule":
        return f"{entry.source_repository or '?'} > {entry.target_repository or '?'}"
    runs = "runs a program, " if entry.runs_program else ""
    identifiers = f"{entry.username_id or '?'}, {entry.password_id or '?'}"
    return f"{runs}credential set for {entry.login_server or '?'}: {identifiers}"


def _line(line: int | None) -> str:
    return f"{line:,}" if line is not None else ""
