"""The media types that a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from entrepot.errors import RequestInvalid

MAX_HEADER = 8192
"""Bytes of all Accept headers of a request together; docker and containerd send less than 1,000."""

# Every quantifier is possessive: it never gives back what it matched, so a text is read once (S01).
_ELEMENT = re.compile(r'(?:[^,"]++|"[^"]*+"?+)++')
_PARAMETER = re.compile(r'(?:[^;"]++|"[^"]*+"?+)++')
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_ZERO = re.compile(r"0++(?:\.0*+)?+")


class AcceptInvalid(RequestInvalid):
    """An Accept header that is too long to be parsed."""

    code = "AcceptInvalid"


@dataclass(frozen=True, slots=True)
class Accept:
    """The media types that a client accepts; an empty set means all."""

    media_types: frozenset[str]

    @classmethod
    def parse(cls, header: bytes | None) -> Accept:
        """Parse an Accept header (several joined by commas).

        Skipped is an element that is no media type, and a parameter or quality outside the grammar
        of one that is: Java sends ``*; q=.2, */*; q=.2``. Where no element is left, all media types
        are accepted (F70).
        Raises `AcceptInvalid` for a header of more than `MAX_HEADER` bytes.
        """
        if header is None:
            return _EVERYTHING
        if len(header) > MAX_HEADER:
            raise AcceptInvalid(
                f"The header Accept has {len(header):,} bytes; at most {MAX_HEADER:,} are read.",
                "Send only the media types that the client understands.",
                field="Accept",
            )
        return _parse(header)

    @property
    def accepts_everything(self) -> bool:
        """Whether the client accepts any media type."""
        return not self.media_types or "*/*" in self.media_types

    def accepts(self, media_type: str) -> bool:
        """Whether the client accepts a media type."""
        return (
            self.accepts_everything
            or media_type.lower() in self.media_types
            or f"{media_type.partition('/')[0].lower()}/*" in self.media_types
        )


_EVERYTHING = Accept(frozenset())


# The same few programs send the same header with every request.
@lru_cache(256)
def _parse(header: bytes) -> Accept:
    media_types = set()
    for element in _ELEMENT.findall(header.decode("latin-1")):
        media_type, _, parameters = element.partition(";")
        if _MEDIA_TYPE.fullmatch(media_type.strip()) and not any(
            _is_zero_quality(parameter) for parameter in _PARAMETER.findall(parameters)
        ):
            media_types.add(media_type.strip().lower())
    return Accept(frozenset(media_types))


def _is_zero_quality(parameter: str) -> bool:
    """Whether a parameter is ``q=0``; other qualities make no difference here."""
    name, _, value = parameter.partition("=")
    return name.strip().lower() == "q" and _ZERO.fullmatch(value.strip()) is not None
