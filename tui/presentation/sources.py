"""Source registries as rows and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from entrepot.api.labels import check_name
from entrepot.api.models import DoctorReport, RuleSnapshot, SourceRegistrySnapshot
from entrepot.core.states import Outcome, SignIn
from entrepot.formatting import ago, counted, duration, moment
from tui.presentation.status import clock_time, join_names
from widgets.detail import Detail
from widgets.row_list import Cell, Row

SIGN_IN = {
    SignIn.NONE: "takes no credentials",
    SignIn.OPTIONAL: "credentials are optional",
    SignIn.REQUIRED: "needs credentials",
}

LOW = 0.1
"""The share of the rate limit below which the remaining pulls are a warning."""

MAX_RULES = 3
"""Rules that are named in a sentence."""

_TONES = {Outcome.OK: "good", Outcome.WARNING: "warn", Outcome.FAILED: "bad"}


def used_first(registries: Sequence[SourceRegistrySnapshot]) -> list[SourceRegistrySnapshot]:
    """Source registries that rules use, the most used first, then the others."""
    return sorted(registries, key=lambda registry: -registry.rules)


def source_row(registry: SourceRegistrySnapshot, now: float) -> Row:
    """The row of a source registry.

    Its login server, sign-in, rules, state and remaining pulls.
    """
    word, tone = source_state(registry, now)
    return Row(
        registry.login_server,
        (
            Cell(registry.login_server, "accent" if registry.rules else ""),
            Cell(registry.sign_in.value, "dim"),
            Cell(f"{registry.rules:,}", "" if registry.rules else "dim"),
            Cell(word, tone),
            Cell(remaining_pulls(registry, now), "warn" if _is_low(registry) else "dim"),
        ),
        search=f"{registry.name} {registry.login_server} {registry.sign_in.value} {word}",
        order=(
            registry.login_server,
            registry.sign_in.value,
            registry.rules,
            word,
            registry.rate_limit_remaining if registry.rate_limit_remaining is not None else -1,
        ),
    )


def source_state(registry: SourceRegistrySnapshot, now: float) -> tuple[str, str]:
    """The state of a source registry in a few words, and its tone."""
    # "down" is only for a source that is itself at fault.
    word = "unreachable" if registry.at_fault in {"machine", "network"} else "down"
    if registry.unreachable_since is not None:
        length = ago(registry.unreachable_since, now)
        return f"{word}{f' {length}' if length != 'now' and word == 'down' else ''}", "bad"
    if registry.reachable is None:
        return "unknown", "dim"
    if not registry.reachable:
        return word, "bad"
    if registry.rate_limit_remaining == 0:
        return "rate limited", "bad"
    if registry.problem is not None:
        return "has a problem", "warn"
    return "healthy", "good"


def source_summary(registry: SourceRegistrySnapshot, now: float) -> Cell:
    """The state of a source registry in one cell: remaining pulls where it is healthy."""
    word, tone = source_state(registry, now)
    if tone == "bad":
        return Cell(f"{word}, serving from cache", tone)
    remaining = remaining_pulls(registry, now)
    return (
        Cell(remaining, "warn" if _is_low(registry) else "")
        if remaining and tone == "good"
        else Cell(word, tone)
    )


def remaining_pulls(registry: SourceRegistrySnapshot, now: float) -> str:
    """What the rate limit still allows, and when it resets: ``73 of 100 left, 4 h``.

    Empty where the registry does not tell.
    """
    if registry.rate_limit_remaining is None:
        return ""
    limit = f" of {registry.rate_limit_limit:,}" if registry.rate_limit_limit is not None else ""
    reset = (
        f", {duration(registry.rate_limit_resets - now)}"
        if registry.rate_limit_resets is not None and registry.rate_limit_resets - now >= 60
        else ""
    )
    return f"{registry.rate_limit_remaining:,}{limit} left{reset}"


def source_detail(
    registry: SourceRegistrySnapshot, rules: Sequence[RuleSnapshot], now: float
) -> Detail:
    """A source registry in sentences. *rules* are those that use it."""
    word, _ = source_state(registry, now)
    problem = (
        f"{registry.problem} {registry.advice or ''}".strip()
        if registry.problem is not None
        else ""
    )
    condition = _condition(registry, now)
    notes = tuple(note for note in (problem, condition) if note)
    limits = _rate_limit(registry, now)
    declared = ", declared in settings.toml" if registry.declared else ""
    uses = (
        f"used by {join_names([rule.name for rule in rules], limit=MAX_RULES)}"
        if rules
        else "used by no rule"
    )
    facts = [
        ("Registry", registry.name),
        ("Server", registry.login_server),
        ("Sign-in", SIGN_IN[registry.sign_in]),
        ("State", word),
    ]
    if registry.unreachable_since is not None:
        facts += [
            ("Since", moment(registry.unreachable_since, now)),
            ("Next attempt", _next_try(registry, now)),
        ]
    if remaining := remaining_pulls(registry, now):
        facts.append(("Pulls", remaining))
    if registry.rate_limit_limit is not None and registry.rate_limit_window is not None:
        facts.append(
            ("Limit", f"{registry.rate_limit_limit:,} in {duration(registry.rate_limit_window)}")
        )
    facts += [
        ("Declared", "in settings.toml" if registry.declared else "by Entrepot"),
        ("Rules", f"{registry.rules:,}"),
    ]
    facts += [("", rule.name) for rule in rules]
    first = f"{registry.name}: {SIGN_IN[registry.sign_in]}{declared}, {uses}."
    # The problem and its advice come first: there is room for a few lines only.
    lines = (problem, condition, first, limits) if problem else (first, condition, limits)
    return Detail(registry.login_server, tuple(line for line in lines if line), tuple(facts), notes)


def rule_cells(rules: Sequence[RuleSnapshot]) -> list[Cell]:
    """The rules of a source registry, one a line."""
    width = max((len(rule.name) for rule in rules), default=0)
    return [
        Cell(f"{rule.name:<{width}}  {rule.source_repository} as {rule.target_repository}")
        for rule in rules
    ]


def doctor_report_cells(report: DoctorReport) -> list[Cell]:
    """The findings of a doctor's report, each with its outcome.

    The advice of a finding is below it.
    """
    lines: list[Cell] = []
    for finding in report.findings:
        place = f"{finding.about}, " if finding.about == "this machine" else ""
        lines.append(
            Cell(
                f"{finding.outcome.value:<5} {place}{check_name(finding)}: {finding.what}",
                _TONES[finding.outcome] if finding.outcome is not Outcome.OK else "",
            )
        )
        if finding.advice:
            lines.append(Cell(f"      {finding.advice}", "dim"))
    problems = sum(finding.outcome is not Outcome.OK for finding in report.findings)
    last = (
        Cell(f"{counted(problems, 'problem')} found.", "warn")
        if problems
        else Cell("No problems found.", "good")
    )
    return [*lines, Cell(""), last]


def _is_low(registry: SourceRegistrySnapshot) -> bool:
    return registry.rate_limit_remaining is not None and registry.rate_limit_remaining <= LOW * (
        registry.rate_limit_limit or 100
    )


def _condition(registry: SourceRegistrySnapshot, now: float) -> str:
    if registry.unreachable_since is not None:
        return (
            f"Unreachable since {moment(registry.unreachable_since, now)}; the next attempt is "
            f"{_next_try(registry, now)}. Until then cached content is served."
        )
    if registry.reachable is None:
        return "It has not been contacted since the engine started."
    if not registry.reachable:
        return "Unreachable. Cached content is served."
    if registry.rate_limit_remaining == 0:
        return "Its rate limit is reached. Cached content is served."
    return "" if registry.problem is not None else "Healthy."


def _next_try(registry: SourceRegistrySnapshot, now: float) -> str:
    return (
        f"at {clock_time(registry.next_try)}"
        if registry.next_try is not None and registry.next_try > now
        else "now"
    )


def _rate_limit(registry: SourceRegistrySnapshot, now: float) -> str:
    parts = []
    if remaining := remaining_pulls(registry, now):
        parts.append(f"{remaining.partition(' left')[0]} pulls left")
    if registry.rate_limit_limit is not None and registry.rate_limit_window is not None:
        parts.append(
            f"the limit is {registry.rate_limit_limit:,} in {duration(registry.rate_limit_window)}"
        )
    if registry.rate_limit_resets is not None and registry.rate_limit_resets > now:
        parts.append(f"it resets at {moment(registry.rate_limit_resets, now)}")
    sentence = ", ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""
