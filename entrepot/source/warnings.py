"""What a source says beside an answer: a warning, and that the answer may be stale.

A source may be a cache itself. One that could not ask its own source says so, and the clients of
this engine need to know it too (OCI distribution specification 1.1, "Warnings").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from entrepot.formatting import printable

WARNING_LENGTH = 400
"""Characters of a source's warning that are passed on, at the most."""

_READ_LENGTH = 4 * 1024
"""Characters of the header that are read: the specification allows 4,096 bytes."""

_WARNING = re.compile(r'(?<![0-9])(?:110|111|299) [^\s",]+ "((?:[^"\\]|\\.)*+)"')
"""The code of the specification, and those of HTTP's caches (RFC 7234, section 5.5)."""


@dataclass(frozen=True, slots=True)
class SourceNote:
    """What a source says beside an answer."""

    warning: str | None = None
    """Printable, without what HTTP puts around it."""
    is_stale: bool = False
    """The source is a cache that could not confirm its copy; the warning says why."""

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> SourceNote:
        """Read the headers of an answer."""
        match = _WARNING.search(headers.get("warning", "")[:_READ_LENGTH])
        text = re.sub(r"\\(.)", r"\1", match[1]) if match is not None else ""
        warning = printable(text, WARNING_LENGTH).strip() or None
        if warning is None and "entrepot-origin" not in headers:
            return NO_NOTE
        is_stale = headers.get("entrepot-origin") == "stale"
        if is_stale and warning is None:
            warning = "The source registry serves a copy that it could not confirm."
        return cls(warning, is_stale)


NO_NOTE = SourceNote()
