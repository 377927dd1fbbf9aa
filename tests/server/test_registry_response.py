"""What a response of the registry says, and to which client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from entrepot.causes import CauseCode
from entrepot.errors import EngineBusy, EntrepotError, PushRefused, RangeUnsatisfiable
from entrepot.httpd.asgi import REASON_KEY
from entrepot.server.registry_response import (
    MAX_WAIT,
    MIN_SPREAD,
    MIN_UNKNOWN_WAIT,
    REASON_LENGTH,
    RegistryResponse,
    retry_after_seconds,
)
from entrepot.source.errors import SourceRateLimited, SourceUnreachable


class Client:
    """Records what an application sends.

    One that *waits* stays connected, and sends nothing more.
    """

    def __init__(
        self,
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        query: bytes = b"",
        waits: bool = False,
    ):
        self._waits = waits
        self.messages: list[dict[str, Any]] = []
        self.response = RegistryResponse(
            {"method": method, "headers": list(headers), "query_string": query, "client": None},
            self._receive,
            self._send,
        )

    async def _receive(self) -> Any:
        if self._waits:
            await asyncio.Event().wait()
        raise AssertionError("nothing is received")

    async def _send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


async def test_an_error_has_the_form_of_the_distribution_specification() -> None:
    client = Client()
    error = SourceUnreachable("docker.io can't be reached.", "Check the network.")
    error.cause = CauseCode.NO_ROUTE
    error.source_message = "what its own source said"
    await client.response.error(error)
    [entry] = json.loads(client.body)["errors"]
    assert (client.status, entry["code"], entry["message"]) == (503, "UNKNOWN", error.message)
    assert entry["detail"] == {
        "code": "SourceUnreachable",
        "cause": "no-route",
        "atFault": "network",
        "sourceMessage": "what its own source said",
    }


async def test_an_error_of_5xx_has_its_message_in_the_status_line() -> None:
    """docker, podman and skopeo show no body of a 5xx."""
    client = Client()
    await client.response.error(SourceUnreachable(f"docker.io … {'x' * 2 * REASON_LENGTH}"))
    reason = client.messages[0][REASON_KEY]
    assert reason.startswith(b"docker.io ? xxx")
    assert len(reason) <= REASON_LENGTH


async def test_a_refused_push_names_what_is_allowed() -> None:
    client = Client(method="PUT")
    await client.response.error(PushRefused("Nothing can be pushed."))
    assert client.headers[b"allow"] == b"GET, HEAD"


async def test_a_range_beyond_the_end_gets_the_size() -> None:
    client = Client()
    await client.response.error(RangeUnsatisfiable("No such bytes.", size=100))
    assert (client.status, client.headers[b"content-range"]) == (416, b"bytes */100")


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_body_that_fails_before_its_first_byte_leaves_the_status_open(pieces: int) -> None:
    """A fill that begins again from its first byte may fail after a client began to wait."""

    async def fail() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x"
        raise SourceUnreachable("docker.io can't be reached.")

    client = Client(waits=True)
    with pytest.raises(SourceUnreachable):
        await client.response.stream(200, [], fail(), etag=None, on_sent=lambda _: None)
    assert client.response.started == bool(pieces)
    assert [message["type"] for message in client.messages] == [
        "http.response.start",
        "http.response.body",
    ][: 2 * pieces]


async def test_a_body_without_bytes_has_a_head() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        pieces: tuple[bytes, ...] = ()
        for piece in pieces:
            yield piece

    client = Client(waits=True)
    await client.response.stream(200, [], nothing(), etag=None, on_sent=lambda _: None)
    assert (client.status, client.body) == (200, b"")


@pytest.mark.parametrize(
    ("error", "least"),
    [
        (SourceRateLimited("Too many.", retry_after=20.0), 20),
        (SourceRateLimited("Too many."), MIN_UNKNOWN_WAIT),
        (EngineBusy("Too many.", retry_after=2), 2),
        (SourceUnreachable("Silent."), 1),
    ],
)
async def test_errors_that_pass_say_when_to_come_back(error: EntrepotError, least: int) -> None:
    client = Client()
    await client.response.error(error)
    assert least <= int(client.headers[b"retry-after"]) <= least + max(MIN_SPREAD, least // 5)


def test_no_client_waits_longer_than_a_day_and_some() -> None:
    assert MAX_WAIT <= retry_after_seconds(1e9) <= MAX_WAIT + MAX_WAIT // 5
    assert retry_after_seconds(-5.0) >= 1


@pytest.mark.parametrize(
    ("condition", "status"),
    [(b'"sha256:aa"', 304), (b"*", 304), (b'"sha256:bb", "sha256:aa"', 304), (b'"sha256:bb"', 200)],
)
async def test_content_that_the_client_has_is_not_sent_again(condition: bytes, status: int) -> None:
    client = Client((b"if-none-match", condition))
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain"), (b"etag", b"x")]
    await client.response.content(b"ok", headers, etag="sha256:aa")
    assert (client.status, client.body) == (status, b"ok" if status == 200 else b"")
    assert (b"content-length" in client.headers) == (status == 200)
    assert client.headers[b"etag"] == b"x"


async def test_a_head_gets_the_headers_without_the_body() -> None:
    client = Client(method="HEAD")
    await client.response.json(b"{}")
    assert (client.headers[b"content-length"], client.body) == (b"2", b"")


def test_several_headers_of_one_name_are_one_list() -> None:
    """docker and containerd send one Accept header for each media type."""
    client = Client((b"accept", b"a/b"), (b"host", b"x"), (b"accept", b"c/d"))
    assert client.response.headers == {b"accept": b"a/b, c/d", b"host": b"x"}


@pytest.mark.parametrize(
    ("headers", "applies"),
    [
        ((), True),
        (((b"if-range", b'"sha256:aa"'),), True),
        (((b"if-range", b'"sha256:bb"'),), False),
    ],
)
def test_a_range_counts_for_the_content_that_the_client_has_begun(
    headers: tuple[tuple[bytes, bytes], ...], applies: bool
) -> None:
    assert Client(*headers).response.range_applies("sha256:aa") is applies
