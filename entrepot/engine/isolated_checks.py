"""Checks of ``entrepot doctor`` that can't stop the others.

Where a check itself fails, the failure is its finding.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

from entrepot.api.models import Finding
from entrepot.engine.findings import failed, of_error
from entrepot.errors import EntrepotError
from entrepot.formatting import printable

_log = logging.getLogger("entrepot.doctor")


async def isolated(
    about: str, check: str, run: Callable[[], Finding | Awaitable[Finding]]
) -> Finding:
    """What a check finds, or that it failed itself (S27)."""
    try:
        finding = run()
        return await finding if inspect.isawaitable(finding) else finding
    except Exception as error:
        return not_checked(about, check, error)


def not_checked(about: str, check: str, error: Exception) -> Finding:
    """The finding of a check that failed itself."""
    if isinstance(error, EntrepotError):
        return of_error(about, check, error)
    _log.error("the check %s of %s failed in an unforeseen way", check, about, exc_info=error)
    return failed(
        about,
        check,
        f"This could not be checked: {printable(f'{type(error).__name__}: {error}', 200)}.",
        "That is a fault of Entrepot; its log has the details.",
    )
