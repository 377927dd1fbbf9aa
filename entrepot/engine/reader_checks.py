"""Checks of ``entrepot doctor`` on readers: who may pull, and rules that nobody can read."""

from __future__ import annotations

from entrepot.api.models import Finding
from entrepot.config.documents import Documents
from entrepot.engine.findings import ok, warning
from entrepot.engine.machine_checks import MACHINE
from entrepot.engine.readers import ReaderService
from entrepot.formatting import counted

EXAMPLES = 3
"""Names that a finding gives as examples."""


def check_readers(documents: Documents, readers: ReaderService) -> Finding:
    """Who may pull from the registry."""
    problems = readers.problems()
    if problems:
        return warning(MACHINE, "readers", problems[0].what, problems[0].hint)
    allow = readers.anonymous_may_read
    rules = list(documents.rules)
    closed = [rule for rule in rules if not rule.access.admits_anonymous(allow_anonymous=allow)]
    if closed and not readers.can_sign_in:
        names = _examples([rule.name for rule in closed])
        return warning(
            MACHINE,
            "readers",
            f"Nobody can pull through {names}: its readers can't sign in."
            if len(closed) == 1
            else f"Nobody can pull through {names}: their readers can't sign in.",
            "Name a password file below [readers] in settings.toml, or create a personal token: "
            "entrepot token create",
        )
    known = readers.known_names()
    unknown = sorted({name for rule in closed for name in rule.access.readers if name not in known})
    if unknown:
        return warning(
            MACHINE,
            "readers",
            f"Cache rules name readers who can't sign in: {_examples(unknown)}.",
            "Add them to the password file or to a group, create a token of that name, or correct "
            "the rules. See: entrepot reader list",
        )
    if not closed:
        return ok(MACHINE, "readers", "everyone who reaches the registry may pull")
    opened = len(rules) - len(closed)
    return ok(
        MACHINE,
        "readers",
        f"{counted(len(closed), 'cache rule')} for readers who sign in, {opened:,} for everyone",
    )


def _examples(names: list[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
