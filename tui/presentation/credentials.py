"""Credential sets as rows, sentences, facts and commands."""

from __future__ import annotations

from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.states import HealthStatus
from entrepot.formatting import since
from tui.presentation import drafts
from tui.presentation.status import day, join_names
from widgets.row_list import Cell, Row

HEALTH = {
    HealthStatus.HEALTHY: ("healthy", "good"),
    HealthStatus.UNHEALTHY: ("unhealthy", "bad"),
    HealthStatus.UNKNOWN: ("not yet tried", "dim"),
}

WORST_FIRST = (HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN, HealthStatus.HEALTHY)

RULES_SHOWN = 12
"""So many of the rules that use a set are named."""


def credential_set_health(found: CredentialSetSnapshot) -> tuple[str, str]:
    """The word for its health, and the tone."""
    return (
        ("not known", "warn")
        if found.health is HealthStatus.UNKNOWN and found.checked
        else HEALTH[found.health]
    )


def credential_set_row(found: CredentialSetSnapshot) -> Row:
    """Name, login server, identifiers, health and use."""
    word, tone = credential_set_health(found)
    texts = (found.name, found.login_server, found.username_id, found.password_id)
    return Row(
        found.name,
        (
            Cell(found.name, "accent"),
            Cell(found.login_server),
            Cell(found.username_id, "dim"),
            Cell(found.password_id, "dim"),
            Cell(word, tone),
            Cell(f"{len(found.used_by):,}"),
        ),
        search=" ".join((*texts, word)),
        order=(
            *(each.lower() for each in texts),
            WORST_FIRST.index(found.health),
            len(found.used_by),
        ),
    )


def credential_set_lines(found: CredentialSetSnapshot, now: float) -> tuple[str, ...]:
    """A credential set in sentences."""
    word, _ = credential_set_health(found)
    checked = f", tried {since(found.checked, now)}" if found.checked else ""
    why = f": {found.error_message} ({found.error_code})" if found.error_message else ""
    return (
        f"{found.name} is {word}{checked}{why}",
        f"used by {join_names(found.used_by, limit=3) or 'no rule'}   created {day(found.created)}",
    )


def credential_set_facts(found: CredentialSetSnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A credential set as names and values."""
    word, _ = credential_set_health(found)
    return (
        ("Login server", found.login_server),
        ("User name", found.username_id),
        ("Password", found.password_id),
        ("Created", day(found.created)),
        ("", ""),
        ("Health", word),
        ("Tried", f"{since(found.checked, now)}" if found.checked else "never"),
        *((("Why", found.error_message),) if found.error_message else ()),
        *((("Code", found.error_code),) if found.error_code else ()),
        ("", ""),
        ("Rules", f"{len(found.used_by):,}"),
        *(("", each) for each in found.used_by[:RULES_SHOWN]),
        *(
            (("", f"and {len(found.used_by) - RULES_SHOWN:,} more"),)
            if len(found.used_by) > RULES_SHOWN
            else ()
        ),
    )


def credential_set_command(found: CredentialSetSnapshot) -> str:
    """The command that makes the same set."""
    return drafts.credential_set_command(
        found.name,
        found.login_server,
        found.username_id,
        found.password_id,
        width=drafts.COPIED_WIDTH,
    )
