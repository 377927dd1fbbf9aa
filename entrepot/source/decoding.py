"""Parsers for what a source sends: JSON, numbers, media types, links.

All of it is foreign text. For any input each function here bounds what it reads, takes linear time,
and raises or returns nothing but what its docstring says.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from entrepot.encoding import without_byte_order_mark

Decoded = TypeVar("Decoded")

MEDIA_TYPE_LENGTH = 255
"""The longest media type, in characters: RFC 6838, section 4.2, allows 127 on each side of its
slash."""

LINK_LENGTH = 8 * 1024
"""Characters of all ``Link`` headers that are read: one link with a long opaque token is 2 kB."""

_MEDIA_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.IGNORECASE | re.ASCII
)
_NUMBER = re.compile(r"[0-9]{1,15}")
_CONTENT_RANGE = re.compile(r"bytes[ \t]{1,8}([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes[ \t]{1,8}\*/([0-9]{1,15})")


class Undecodable(ValueError):
    """Bytes are no JSON, or not of the requested shape."""


def decode(content: bytes, kind: type[Decoded]) -> Decoded:
    """Decode JSON as *kind*; raises `Undecodable`, also for JSON that nests too deep.

    A byte order mark at the start is ignored (RFC 8259, section 8.1).
    """
    try:
        return msgspec.json.decode(without_byte_order_mark(content), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = type(error).__name__
    # Outside the handler: a remembered error would keep the one that it followed from.
    raise Undecodable(reason)


def parse_number(text: str) -> int | None:
    """A count or a size below 10^15; None for anything else."""
    return int(text) if _NUMBER.fullmatch(text) else None


def parse_media_type(text: str) -> str | None:
    """A media type of RFC 6838 without parameters, in lower case; None if invalid."""
    media_type = text[: MEDIA_TYPE_LENGTH + 1].partition(";")[0].strip(" \t").lower()
    if len(media_type) > MEDIA_TYPE_LENGTH or not _MEDIA_TYPE.fullmatch(media_type):
        return None
    return media_type


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """First byte, last byte and whole size of a 206; None for anything else.

    The size is None where it is left open (RFC 9110, section 14.4).
    """
    part = _CONTENT_RANGE.fullmatch(text.strip(" \t")[:64])
    if part is None:
        return None
    return int(part[1]), int(part[2]), None if part[3] == "*" else int(part[3])


def parse_unsatisfied_range(text: str) -> int | None:
    """The whole size that a 416 names; None when it names none."""
    part = _UNSATISFIED_RANGE.fullmatch(text.strip(" \t")[:64])
    return None if part is None else int(part[1])


def next_link(text: str) -> str | None:
    """The target of the link to the next page in a ``Link`` header, as it was written.

    None when there is none (RFC 8288).
    """
    text = text[:LINK_LENGTH]
    start = text.find("<")
    while start != -1:
        end = text.find(">", start)
        if end == -1:
            return None
        following = text.find("<", end)
        if _is_next(text[end + 1 : following if following != -1 else len(text)]):
            return text[start + 1 : end]
        start = following
    return None


def _is_next(parameters: str) -> bool:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "rel" and "next" in value.strip(' \t,"').lower().split():
            return True
    return False
