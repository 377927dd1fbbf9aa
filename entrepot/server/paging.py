"""Page sizes of listings (OCI distribution specification 1.1, "Listing Tags")."""

from __future__ import annotations

import re

from entrepot.core.reference import quoted
from entrepot.errors import RequestInvalid

# Python refuses to read more than 4,300 digits (ValueError), and no listing has a billion entries
# (S25).
_COUNT = re.compile(r"[0-9]{1,9}+")


def parse_count(text: str | None) -> int | None:
    """A whole number of at most nine digits; None for anything else."""
    return int(text) if text is not None and _COUNT.fullmatch(text) else None


def page_size(text: str | None, largest: int) -> int | None:
    """The parameter ``n`` of a listing, at most *largest*; None without the parameter.

    0 asks for an empty page (F77). Raises `RequestInvalid`.
    """
    if text is None:
        return None
    count = parse_count(text)
    if count is None:
        raise RequestInvalid(
            f"n={quoted(text)} is not a number of entries.",
            "Give a whole number of at most nine digits.",
            field="n",
        )
    return min(count, largest)
