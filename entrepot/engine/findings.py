"""How the checks of ``entrepot doctor`` say what they found."""

from __future__ import annotations

from entrepot.api.models import Finding
from entrepot.causes import Cause
from entrepot.core.states import Outcome
from entrepot.errors import EntrepotError


def ok(about: str, check: str, what: str) -> Finding:
    """A check that passed."""
    return Finding(about=about, check=check, outcome=Outcome.OK, what=what)


def warning(about: str, check: str, what: str, advice: str) -> Finding:
    """Something that will fail later, or may."""
    return Finding(about=about, check=check, outcome=Outcome.WARNING, what=what, advice=advice)


def failed(about: str, check: str, what: str, advice: str) -> Finding:
    """A check that failed."""
    return Finding(about=about, check=check, outcome=Outcome.FAILED, what=what, advice=advice)


def of_cause(about: str, check: str, cause: Cause, outcome: Outcome = Outcome.FAILED) -> Finding:
    """A check that failed for a recognised cause."""
    return Finding(
        about=about,
        check=check,
        outcome=outcome,
        what=cause.what,
        advice=cause.hint,
        cause=cause.code,
    )


def of_error(about: str, check: str, error: EntrepotError) -> Finding:
    """A check that failed with an error that says why."""
    return Finding(
        about=about,
        check=check,
        outcome=Outcome.FAILED,
        what=error.what,
        advice=error.hint,
        cause=error.cause,
    )
