"""The JSON bodies of requests to the management API."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request

from entrepot.errors import RequestInvalid
from entrepot.formatting import printable

BODY_LIMIT = 1024 * 1024
"""The largest body of a request, in bytes."""

Body = TypeVar("Body")


async def read_body(
    request: Request,
    kind: type[Body],
    *,
    hint: str = "Send JSON in the shape of ACR's management API.",
) -> Body:
    """The JSON body of a request, of at most `BODY_LIMIT` bytes.

    Raises `RequestInvalid` with *hint* when it is not what was expected.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_LIMIT:
            raise RequestInvalid(
                f"The body has more than {BODY_LIMIT:,} bytes.",
                "No rule and no credential set needs that much.",
            )
    try:
        return msgspec.json.decode(bytes(content), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        # ValueError: a number of more digits than Python reads.
        raise RequestInvalid(
            f"The body can't be read: {printable(str(error), 200)}.", hint
        ) from error
