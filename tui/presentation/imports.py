"""What an import would do, or did, as rows and sentences."""

from __future__ import annotations

from entrepot.api.models import ImportEntry, ImportPlan
from entrepot.core.states import ImportOutcome
from entrepot.formatting import counted
from tui.presentation.secrets import is_program
from widgets.row_list import Cell, Row

OUTCOME = {
    ImportOutcome.CREATE: ("make", "good"),
    ImportOutcome.UNCHANGED: ("there", "dim"),
    ImportOutcome.CONFLICT: ("conflict", "bad"),
}

KIND = {"rule": "cache rule", "credentialSet": "credential set"}


def plan_rows(plan: ImportPlan) -> list[Row]:
    """What is wrong with the text as a whole, and all its entries."""
    rows = [
        Row(
            f"problem {number}",
            (
                Cell("conflict", "bad"),
                Cell("the text"),
                Cell(each.message, "dim"),
                Cell(_line(each.line)),
            ),
        )
        for number, each in enumerate(plan.problems)
    ]
    for number, entry in enumerate(plan.entries):
        word, tone = OUTCOME[entry.outcome]
        rows.append(
            Row(
                f"entry {number}",
                (
                    Cell(word, tone),
                    Cell(entry.name, "accent"),
                    Cell(_what(entry), "warn" if entry.runs_program else ""),
                    Cell(_line(entry.line)),
                ),
            )
        )
    return rows


def first_conflict(plan: ImportPlan) -> str | None:
    """The key of the first row that stands in the way."""
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
    """What it comes to, in a sentence."""
    if not plan.entries and not plan.problems:
        return "There is no rule and no credential set in it."
    conflicts = plan.count(ImportOutcome.CONFLICT) + len(plan.problems)
    if conflicts:
        return f"Nothing can be made: there {counted(conflicts, 'is', 'are').partition(' ')[2]} {counted(conflicts, 'conflict', 'conflicts')}."
    there = plan.count(ImportOutcome.UNCHANGED)
    made = _made(plan)
    if not made:
        return "All of it is there already: there is nothing to make."
    also = f"; {counted(there, 'entry is', 'entries are')} there already" if there else ""
    programs = len(plan.runs_programs)
    runs = (
        f" {counted(programs, 'credential set runs', 'credential sets run')} a program."
        if programs
        else ""
    )
    return f"{made} will be made{also}.{runs}"


def applied_summary(plan: ImportPlan) -> str:
    """What was made, in a sentence."""
    made = _made(plan)
    return (
        f"{made} {'is' if made.startswith('1 ') and ' and ' not in made else 'are'} made."
        if made
        else "Nothing had to be made."
    )


def entry_lines(plan: ImportPlan, key: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """What is to be said of a row: sentences, and what stands in its way with the code of each."""
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
    told = f"{place}{KIND[entry.kind]} {entry.name}"
    if entry.kind == "rule" and entry.source_repository and entry.target_repository:
        signs_in = f", signs in with {entry.credential_set}" if entry.credential_set else ""
        told += f": {entry.source_repository} appears as {entry.target_repository}{signs_in}"
    elif entry.login_server:
        told += f" for {entry.login_server}"
    if entry.username_id or entry.password_id:
        told += f", user name from {entry.username_id or 'nowhere'}, password from {entry.password_id or 'nowhere'}"
    if entry.runs_program:
        told += ". The engine runs a program each time it signs in with it"
    there = (
        (" The very same is there already.",) if entry.outcome is ImportOutcome.UNCHANGED else ()
    )
    return (f"{told}.{''.join(there)}",), tuple(
        (f"{place}{each.message}", each.code) for each in entry.problems
    )


def programs_text(plan: ImportPlan) -> str:
    """What the engine would run, set by set."""
    identifiers = (
        (each, identifier)
        for each in plan.runs_programs
        for identifier in (each.username_id, each.password_id)
    )
    return "\n".join(
        f"{each.name}: {identifier}"
        for each, identifier in identifiers
        if identifier is not None and is_program(identifier)
    )


def _made(plan: ImportPlan) -> str:
    kinds = [each.kind for each in plan.entries if each.outcome is ImportOutcome.CREATE]
    parts = [
        counted(kinds.count(kind), one, many)
        for kind, one, many in (
            ("rule", "cache rule", "cache rules"),
            ("credentialSet", "credential set", "credential sets"),
        )
        if kind in kinds
    ]
    return " and ".join(parts)


def _what(entry: ImportEntry) -> str:
    if entry.kind == "rule":
        return f"{entry.source_repository or '?'} > {entry.target_repository or '?'}"
    runs = "runs a program, " if entry.runs_program else ""
    return f"{runs}credential set for {entry.login_server or '?'}: {entry.username_id or '?'}, {entry.password_id or '?'}"


def _line(line: int | None) -> str:
    return f"{line:,}" if line is not None else ""
