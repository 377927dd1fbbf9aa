"""What media types a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from entrepot.errors import RequestInvalid

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = rf'\s*;\s*(?:{_TOKEN}=(?:{_TOKEN}|"[^"]*"))?'
_MEDIA_RANGE = re.compile(rf"\s*(?P<type>{_TOKEN}/{_TOKEN})(?P<parameters>(?:{_PARAMETER})*)\s*")
_QUALITY = re.compile(r";\s*q=(?P<value>[^;\s]*)", re.IGNORECASE)
_QUALITY_VALUE = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


class AcceptInvalid(RequestInvalid):
    """An Accept header that can't be read."""

    code = "AcceptInvalid"


@dataclass(frozen=True, slots=True)
class Accept:
    """The media types that a client accepts; none named means all."""

    media_types: frozenset[str]

    # The same few programs send the same header with every request.
    @classmethod
    @lru_cache(256)
    def parse(cls, header: bytes | None) -> Accept:
        """Read an Accept header (several joined by commas); raises `AcceptInvalid`."""
        if header is None or not header.strip():
            return cls(frozenset())
        found = set()
        for part in header.decode("latin-1").split(","):
            if not part.strip():
                continue
            match = _MEDIA_RANGE.fullmatch(part)
            quality = _QUALITY.search(match["parameters"]) if match else None
            if match is None or (quality is not None and not _QUALITY_VALUE.fullmatch(quality["value"])):
                raise AcceptInvalid(
                    f"The header Accept has {part.strip()[:80]!r}, which is not a media type.", "Write media types with commas between.", field="Accept"
                )
            if quality is None or float(quality["value"]) > 0:
                found.add(match["type"].lower())
        return cls(frozenset(found))

    @property
    def takes_everything(self) -> bool:
        """Whether the client accepts any media type."""
        return not self.media_types or "*/*" in self.media_types

    def takes(self, media_type: str) -> bool:
        """Whether the client accepts a media type."""
        return self.takes_everything or media_type.lower() in self.media_types or f"{media_type.partition('/')[0].lower()}/*" in self.media_types
