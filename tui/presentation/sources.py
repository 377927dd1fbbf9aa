"""Source registries as rows and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from entrepot.api.models import DoctorReport, RuleSnapshot, SourceRegistrySnapshot
from entrepot.core.states import Outcome, SignIn
from entrepot.formatting import ago, counted, duration, moment, since
from tui.presentation.status import clock_time
from widgets.detail import Detail
from widgets.row_list import Cell, Row

SIGN_IN = {
    SignIn.NONE: "takes no credentials",
    SignIn.OPTIONAL: "credentials are optional",
    SignIn.REQUIRED: "needs credentials",
}

LOW = 0.1
"""The share of an allowance below which it is worth a warning."""

RULES_NAMED = 3
"""Names of rules in a sentence."""

_TONES = {Outcome.OK: "good", Outcome.WARNING: "warn", Outcome.FAILED: "bad"}


def used_first(upstreams: Sequence[SourceRegistrySnapshot]) -> list[SourceRegistrySnapshot]:
    """Those that rules use, the most used first, then the others."""
    return sorted(upstreams, key=lambda each: -each.rules)


def source_row(found: SourceRegistrySnapshot, now: float) -> Row:
    """A source registry: login server, what it asks of credentials, rules, how it is, and what it
    still lets us pull."""
    word, tone = source_state(found, now)
    return Row(
        found.login_server,
        (
            Cell(found.login_server, "accent" if found.rules else ""),
            Cell(found.sign_in.value, "dim"),
            Cell(f"{found.rules:,}", "" if found.rules else "dim"),
            Cell(word, tone),
            Cell(allowance(found, now), "warn" if _is_low(found) else "dim"),
        ),
        search=f"{found.name} {found.login_server} {found.sign_in.value} {word}",
        order=(
            found.login_server,
            found.sign_in.value,
            found.rules,
            word,
            found.allowance_remaining if found.allowance_remaining is not None else -1,
        ),
    )


def source_state(found: SourceRegistrySnapshot, now: float) -> tuple[str, str]:
    """How a source registry is, in a few words, and the tone of them."""
    # A source that is not at fault is not down.
    word = "out of reach" if found.at_fault in {"machine", "network"} else "down"
    if found.unreachable_since is not None:
        length = ago(found.unreachable_since, now)
        return f"{word}{f' {length}' if length != 'now' and word == 'down' else ''}", "bad"
    if found.reachable is None:
        return "not asked yet", "dim"
    if not found.reachable:
        return word, "bad"
    if found.allowance_remaining == 0:
        return "allowance spent", "bad"
    if found.problem is not None:
        return "has a problem", "warn"
    return "well", "good"


def source_summary(found: SourceRegistrySnapshot, now: float) -> Cell:
    """How a source registry is, in one cell: its allowance where that is all there is to say."""
    word, tone = source_state(found, now)
    if tone == "bad":
        return Cell(f"{word}, serving what is held", tone)
    told = allowance(found, now)
    return (
        Cell(told, "warn" if _is_low(found) else "")
        if told and tone == "good"
        else Cell(word, tone)
    )


def allowance(found: SourceRegistrySnapshot, now: float) -> str:
    """What it still lets us pull, and when it counts anew: ``73 of 100 left, 4 h``; empty: it does
    not say."""
    if found.allowance_remaining is None:
        return ""
    limit = f" of {found.allowance_limit:,}" if found.allowance_limit is not None else ""
    anew = (
        f", {duration(found.allowance_resets - now)}"
        if found.allowance_resets is not None and found.allowance_resets - now >= 60
        else ""
    )
    return f"{found.allowance_remaining:,}{limit} left{anew}"


def source_detail(
    found: SourceRegistrySnapshot, rules: Sequence[RuleSnapshot], now: float
) -> Detail:
    """A source registry in sentences. *rules* are those that use it."""
    word, _ = source_state(found, now)
    problem = f"{found.problem} {found.advice or ''}".strip() if found.problem is not None else ""
    condition = _condition(found, now)
    notes = tuple(each for each in (problem, condition) if each)
    counting = _counting(found, now)
    declared = ", declared in settings.toml" if found.declared else ""
    uses = f"used by {_named([rule.name for rule in rules])}" if rules else "used by no rule"
    facts = [
        ("Registry", found.name),
        ("Server", found.login_server),
        ("Sign-in", SIGN_IN[found.sign_in]),
        ("State", word),
    ]
    if found.unreachable_since is not None:
        facts += [
            ("Since", moment(found.unreachable_since, now)),
            ("Next try", _next_try(found, now)),
        ]
    if told := allowance(found, now):
        facts.append(("Pulls", told))
    if found.allowance_limit is not None and found.allowance_window is not None:
        facts.append(("Limit", f"{found.allowance_limit:,} in {duration(found.allowance_window)}"))
    facts += [
        ("Known", "from settings.toml" if found.declared else "from Entrepot's own table"),
        ("Rules", f"{found.rules:,}"),
    ]
    facts += [("", rule.name) for rule in rules]
    first = f"{found.name}: {SIGN_IN[found.sign_in]}{declared}, {uses}."
    # What is wrong and what to do come first: the strip has room for a few lines only.
    lines = (problem, condition, first, counting) if problem else (first, condition, counting)
    return Detail(found.login_server, tuple(each for each in lines if each), tuple(facts), notes)


def rule_cells(rules: Sequence[RuleSnapshot]) -> list[Cell]:
    """The rules of a source registry, one a line."""
    width = max((len(rule.name) for rule in rules), default=0)
    return [
        Cell(f"{rule.name:<{width}}  {rule.source_repository} as {rule.target_repository}")
        for rule in rules
    ]


def doctor_report_cells(found: DoctorReport) -> list[Cell]:
    """What was found, step by step, each with its outcome by word and the advice below it."""
    lines: list[Cell] = []
    for finding in found.findings:
        about = f"{finding.about}, " if finding.about == "this machine" else ""
        lines.append(
            Cell(
                f"{finding.outcome.value:<5} {about}{finding.check}: {finding.what}",
                _TONES[finding.outcome] if finding.outcome is not Outcome.OK else "",
            )
        )
        if finding.advice:
            lines.append(Cell(f"      {finding.advice}", "dim"))
    wrong = sum(finding.outcome is not Outcome.OK for finding in found.findings)
    last = (
        Cell(f"{counted(wrong, 'finding')} to look at.", "warn")
        if wrong
        else Cell("All is well.", "good")
    )
    return [*lines, Cell(""), last]


def _is_low(found: SourceRegistrySnapshot) -> bool:
    return found.allowance_remaining is not None and found.allowance_remaining <= LOW * (
        found.allowance_limit or 100
    )


def _condition(found: SourceRegistrySnapshot, now: float) -> str:
    if found.unreachable_since is not None:
        return f"It went out of reach {since(found.unreachable_since, now)} and is tried again {_next_try(found, now)}. Until then what is held is served."
    if found.reachable is None:
        return "Nothing was asked of it since the engine started."
    if not found.reachable:
        return "It could not be reached. What is held is served."
    if found.allowance_remaining == 0:
        return "It lets us pull nothing more for now. What is held is served."
    return "" if found.problem is not None else "It answers as it should."


def _next_try(found: SourceRegistrySnapshot, now: float) -> str:
    return (
        f"at {clock_time(found.next_try)}"
        if found.next_try is not None and found.next_try > now
        else "now"
    )


def _counting(found: SourceRegistrySnapshot, now: float) -> str:
    parts = []
    if told := allowance(found, now):
        parts.append(f"{told.partition(' left')[0]} pulls left")
    if found.allowance_limit is not None and found.allowance_window is not None:
        parts.append(f"it allows {found.allowance_limit:,} in {duration(found.allowance_window)}")
    if found.allowance_resets is not None and found.allowance_resets > now:
        parts.append(f"it counts anew at {moment(found.allowance_resets, now)}")
    told = ", ".join(parts)
    return f"{told[:1].upper()}{told[1:]}." if told else ""


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:RULES_NAMED])
    return f"{shown} and {len(names) - RULES_NAMED:,} more" if len(names) > RULES_NAMED else shown
