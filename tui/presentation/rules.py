"""Cache rules as rows, sentences, facts, commands and documents."""

from __future__ import annotations

from collections.abc import Callable

from entrepot.api.labels import tag_lifetime
from entrepot.api.models import RuleSnapshot
from entrepot.core.readers import ReaderAccess
from entrepot.formatting import ago, counted, since, size
from tui.presentation import drafts
from tui.presentation.access import rule_readers
from tui.presentation.status import day
from widgets.row_list import Cell, Row


def rule_row(rule: RuleSnapshot, clock: Callable[[], float]) -> Row:
    """The row of a rule: name, source, target, credential set, readers, pulls and last pull."""

    def cells() -> tuple[Cell, ...]:
        return (
            Cell(rule.name, "accent"),
            Cell(rule.source_repository),
            Cell(rule.target_repository),
            Cell(rule.credential_set or "-", "" if rule.credential_set else "dim"),
            Cell(rule_readers(rule), "dim" if rule.readable_by == "everyone" else ""),
            Cell(f"{rule.pulls:,}"),
            Cell(ago(rule.last_pull, clock()), "dim"),
        )

    names = (
        rule.name,
        rule.source_repository,
        rule.target_repository,
        rule.credential_set or "",
        rule.readable_by,
    )
    return Row(
        rule.name,
        cells,
        search=" ".join(names),
        order=(*(name.lower() for name in names), rule.pulls, rule.last_pull or 0.0),
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
        f"credential set {rule.credential_set or 'none'}   tag lifetime {tag_lifetime(rule)}   "
        f"created {day(rule.created)}",
        f"readers {rule_readers(rule)}",
    )


def rule_facts(rule: RuleSnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A rule as names and values."""
    requests = rule.requests_made + rule.requests_saved
    return (
        ("Target", rule.target_repository),
        ("Source", rule.source_repository),
        ("Credential set", rule.credential_set or "none"),
        ("Tag lifetime", tag_lifetime(rule)),
        ("Readers", rule.readable_by),
        ("Created", day(rule.created)),
        ("", ""),
        ("Repositories", f"{rule.repositories:,}"),
        ("Size", size(rule.size)),
        ("Pulls", f"{rule.pulls:,}"),
        ("Last pull", since(rule.last_pull, now) if rule.last_pull is not None else "never"),
        ("Requests made", f"{rule.requests_made:,}"),
        (
            "Requests saved",
            f"{rule.requests_saved:,}"
            + (f" ({rule.requests_saved * 100 // requests} %)" if requests else ""),
        ),
    )


def cached(rule: RuleSnapshot) -> str:
    """How much is cached through a rule; empty for nothing."""
    return (
        f"{counted(rule.repositories, 'repository', 'repositories')}, {size(rule.size)}"
        if rule.repositories
        else ""
    )


def saved(rule: RuleSnapshot) -> str:
    """The share of manifest requests that were answered without asking the source.

    Empty before the first request.
    """
    requests = rule.requests_made + rule.requests_saved
    return f"{rule.requests_saved * 100 // requests} % from the cache" if requests else ""


def rule_command(rule: RuleSnapshot) -> str:
    """The command that creates the same rule."""
    return drafts.rule_command(
        rule.name,
        rule.source_repository,
        rule.target_repository,
        rule.credential_set,
        rule.freshness,
        ReaderAccess(rule.readers, rule.anonymous),
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
        ReaderAccess(rule.readers, rule.anonymous),
    )
