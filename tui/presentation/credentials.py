"""Credential sets as rows, sentences, facts and commands."""

from __future__ import annotations

from entrepot.api.labels import credential_set_health as health_label
from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.states import HealthStatus
from entrepot.formatting import since
from tui.presentation import drafts
from tui.presentation.status import day, join_names
from widgets.row_list import Cell, Row

_TONES = {
    HealthStatus.HEALTHY: "good",
    HealthStatus.UNHEALTHY: "bad",
    HealthStatus.UNKNOWN: "warn",
}

WORST_FIRST = (HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN, HealthStatus.HEALTHY)

MAX_RULES = 12
"""Rules that use a set, named at most."""


def credential_set_health(credential_set: CredentialSetSnapshot) -> tuple[str, str]:
    """The word for the health of a credential set, and its tone."""
    is_unchecked = credential_set.health is HealthStatus.UNKNOWN and not credential_set.checked
    return health_label(credential_set), "dim" if is_unchecked else _TONES[credential_set.health]


def credential_set_row(credential_set: CredentialSetSnapshot) -> Row:
    """The row of a set: name, login server, identifiers, health and number of rules."""
    word, tone = credential_set_health(credential_set)
    texts = (
        credential_set.name,
        credential_set.login_server,
        credential_set.username_id,
        credential_set.password_id,
    )
    return Row(
        credential_set.name,
        (
            Cell(credential_set.name, "accent"),
            Cell(credential_set.login_server),
            Cell(credential_set.username_id, "dim"),
            Cell(credential_set.password_id, "dim"),
            Cell(word, tone),
            Cell(f"{len(credential_set.used_by):,}"),
        ),
        search=" ".join((*texts, word)),
        order=(
            *(text.lower() for text in texts),
            WORST_FIRST.index(credential_set.health),
            len(credential_set.used_by),
        ),
    )


def credential_set_lines(credential_set: CredentialSetSnapshot, now: float) -> tuple[str, ...]:
    """A credential set in sentences."""
    word, _ = credential_set_health(credential_set)
    checked = f", checked {since(credential_set.checked, now)}" if credential_set.checked else ""
    why = (
        f": {credential_set.error_message} ({credential_set.error_code})"
        if credential_set.error_message
        else ""
    )
    return (
        f"{credential_set.name} is {word}{checked}{why}",
        f"used by {join_names(credential_set.used_by, limit=3) or 'no rule'}   "
        f"created {day(credential_set.created)}",
    )


def credential_set_facts(
    credential_set: CredentialSetSnapshot, now: float
) -> tuple[tuple[str, str], ...]:
    """A credential set as names and values."""
    word, _ = credential_set_health(credential_set)
    return (
        ("Login server", credential_set.login_server),
        ("User name", credential_set.username_id),
        ("Password", credential_set.password_id),
        ("Created", day(credential_set.created)),
        ("", ""),
        ("Health", word),
        ("Checked", since(credential_set.checked, now) if credential_set.checked else "never"),
        *((("Reason", credential_set.error_message),) if credential_set.error_message else ()),
        *((("Code", credential_set.error_code),) if credential_set.error_code else ()),
        ("", ""),
        ("Rules", f"{len(credential_set.used_by):,}"),
        *(("", rule) for rule in credential_set.used_by[:MAX_RULES]),
        *(
            (("", f"and {len(credential_set.used_by) - MAX_RULES:,} more"),)
            if len(credential_set.used_by) > MAX_RULES
            else ()
        ),
    )


def credential_set_command(credential_set: CredentialSetSnapshot) -> str:
    """The command that creates the same set."""
    return drafts.credential_set_command(
        credential_set.name,
        credential_set.login_server,
        credential_set.username_id,
        credential_set.password_id,
        width=drafts.COPIED_WIDTH,
    )
