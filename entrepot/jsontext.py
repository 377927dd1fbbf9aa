"""JSON as registries send it: with a byte order mark before it, or with other bytes after it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8

import msgspec

_TRAILING = re.compile(r"trailing characters \(byte ([0-9]{1,12})\)")
"""What msgspec says of bytes after the JSON value, and the number of the first."""


def first_value(content: bytes) -> bytes:
    """The JSON value with which *content* begins, without a byte order mark and what follows it (F82).

    *content* itself where it is no JSON: whoever decodes it says why. A digest is always that of the
    bytes as they came, and never of these.
    """
    text = content.removeprefix(BOM_UTF8)
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        trailing = _TRAILING.search(str(error))
        return text[: int(trailing[1]) - 1] if trailing is not None else text
    return text
