"""Reads ``multipart/byteranges`` as strictly as Go's mime/multipart, with which clients read it."""

from __future__ import annotations

import re
from collections.abc import Mapping


def read_parts(headers: Mapping[str, str], body: bytes) -> list[tuple[int, int, int, bytes]]:
    """Of each part the first and last position, the size of the blob, and its bytes."""
    content_type = headers["content-type"]
    match = re.fullmatch(
        r"multipart/byteranges; boundary=([0-9A-Za-z'()+_,./:=?-]{1,70})", content_type
    )
    assert match is not None, content_type
    boundary = match[1].encode()
    assert int(headers["content-length"]) == len(body)
    assert "content-range" not in headers
    preamble, *encapsulated, epilogue = body.split(b"\r\n--" + boundary)
    assert (preamble, epilogue) == (b"", b"--\r\n")
    return [_read_part(part) for part in encapsulated]


def _read_part(part: bytes) -> tuple[int, int, int, bytes]:
    head, _, content = part.partition(b"\r\n\r\n")
    empty, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert empty == ""
    assert headers.keys() == {"content-type", "content-range"}
    assert headers["content-type"] == "application/octet-stream"
    match = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", headers["content-range"])
    assert match is not None, headers
    first, last, size = map(int, match.groups())
    assert last - first + 1 == len(content)
    return first, last, size, content
