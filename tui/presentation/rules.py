"""Cache rules as rows, sentences, facts, commands and documents."""

from __future__ import annotations

from collections.abc import Callable

from entrepot.api.models import RuleSnapshot
from entrepot.formatting import ago, counted, since, size
from tui.presentation import drafts
from tui.presentation.status import day
from widgets.row_list import Cell, Row


def rule_row(rule: RuleSnapshot, clock: Callable[[], float]) -> Row:
    """Name, source, target, sign-in, pulls and last use."""

    def cells() -> tuple[Cell, ...]:
        return (
            Cell(rule.name, "accent"),
            Cell(rule.source_repository),
            Cell(rule.target_repository),
            Cell(rule.credential_set or "-", "" if rule.credential_set else "dim"),
            Cell(f"{rule.pulls:,}"),
            Cell(ago(rule.last_pull, clock()), "dim"),
        )

    names = (rule.name, rule.source_repository, rule.target_repository, rule.credential_set or "")
    return Row(
        rule.name,
        cells,
        search=" ".join(names),
        order=(*(each.lower() for each in names), rule.pulls, rule.last_pull or 0.0),
    )


def rule_lines(rule: RuleSnapshot, now: float) -> tuple[str, ...]:
    """A rule in sentences."""
    used = (
        f"{counted(rule.pulls, 'pull')}, last {since(rule.last_pull, now)}"
        if rule.last_pull is not None
        else "never pulled"
    )
    return (
        f"{rule.name} answers for {rule.target_repository} with {rule.source_repository}",
        "   ".join(part for part in (cached(rule), used, saved(rule)) if part),
        f"sign-in {rule.credential_set or 'none'}   freshness {freshness(rule)}   created {day(rule.created)}",
    )


def rule_facts(rule: RuleSnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A rule as names and values."""
    asked = rule.requests_made + rule.requests_saved
    return (
        ("Target", rule.target_repository),
        ("Source", rule.source_repository),
        ("Sign-in", rule.credential_set or "no credential set"),
        ("Freshness", freshness(rule)),
        ("Created", day(rule.created)),
        ("", ""),
        ("Repositories", f"{rule.repositories:,}"),
        ("Size", size(rule.size)),
        ("Pulls", f"{rule.pulls:,}"),
        ("Last pull", f"{since(rule.last_pull, now)}" if rule.last_pull is not None else "never"),
        ("Requests made", f"{rule.requests_made:,}"),
        (
            "Requests saved",
            f"{rule.requests_saved:,}"
            + (f" ({rule.requests_saved * 100 // asked} %)" if asked else ""),
        ),
    )


def freshness(rule: RuleSnapshot) -> str:
    """How long its tags are believed, and where that is said."""
    return rule.freshness_in_force if rule.freshness else f"{rule.freshness_in_force} (the default)"


def cached(rule: RuleSnapshot) -> str:
    """How much came through it and is held."""
    return (
        f"{counted(rule.repositories, 'repository', 'repositories')}, {size(rule.size)}"
        if rule.repositories
        else ""
    )


def saved(rule: RuleSnapshot) -> str:
    """The share of the requests for manifests that the cache answered without asking the source;
    empty before the first one."""
    asked = rule.requests_made + rule.requests_saved
    return f"{rule.requests_saved * 100 // asked} % from the cache" if asked else ""


def rule_command(rule: RuleSnapshot) -> str:
    """The command that makes the same rule."""
    return drafts.rule_command(
        rule.name,
        rule.source_repository,
        rule.target_repository,
        rule.credential_set,
        rule.freshness,
        width=drafts.COPIED_WIDTH,
    )


def rule_toml(rule: RuleSnapshot) -> str:
    """The same rule as an entry of rules.toml."""
    return drafts.rule_toml(
        rule.name,
        rule.source_repository,
        rule.target_repository,
        rule.credential_set,
        rule.freshness,
    )
