"""Checks of ``entrepot doctor`` on readers: who may pull, rules that nobody can read, passwords."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from pathlib import Path

from entrepot.api.models import Finding
from entrepot.config.documents import Documents
from entrepot.engine.findings import ok, warning
from entrepot.engine.machine_checks import MACHINE
from entrepot.engine.readers import ReaderService
from entrepot.formatting import counted
from entrepot.secrets.exposure import Exposure, find_exposure

EXAMPLES = 3
"""Names that a finding gives as examples."""

LEAST_COST = 10
"""The lowest bcrypt cost that resists guessing (OWASP, "Password Storage Cheat Sheet")."""


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


async def check_password_file(readers: ReaderService) -> Sequence[Finding]:
    """What is weak about the password file; nothing where it is not, or can't be read."""
    file = readers.password_file
    if file is None:
        return []
    findings: list[Finding] = []
    cheap = readers.names_cheaper_than(LEAST_COST)
    if cheap:
        findings.append(
            warning(
                MACHINE,
                "passwords",
                f"The bcrypt cost of {_examples(list(cheap))} is below {LEAST_COST}: with the file "
                f"{file} passwords are guessed fast.",
                f"Write them again: htpasswd -B -C {LEAST_COST} {file} NAME",
            )
        )
    exposure = await asyncio.to_thread(_exposure, file)
    if exposure is not None:
        findings.append(
            warning(
                MACHINE,
                "passwords",
                f"The password file {file} is open to other users of this machine "
                f"(mode {exposure.mode:04o}).",
                exposure.hint,
            )
        )
    return findings


def _exposure(file: Path) -> Exposure | None:
    try:
        with file.open("rb") as opened:
            return find_exposure(opened.fileno(), str(file), allowed=stat.S_IRGRP)
    except OSError:
        return None


def _examples(names: list[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
