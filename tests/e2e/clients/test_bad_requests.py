"""Malformed and oversized requests at ``/v2/``: the right status, an error as the OCI distribution
specification has it, and nothing asked of the source."""

from __future__ import annotations

import re
import socket

import httpx
import pytest

from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage

DIGEST = f"sha256:{'0' * 64}"


def _assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    [error] = answer.json()["errors"]
    assert error["code"] == code
    assert error["message"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v2/Library/app/blobs/{DIGEST}", 400, "NAME_INVALID"),
        ("/v2/library/-app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library//app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/app%20x/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/%2e%2e/%2e%2e/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/app%00/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/\u00e4pp/manifests/1", 400, "NAME_INVALID"),
        (f"/v2/{'a' * 256}/manifests/1", 400, "NAME_INVALID"),
        (f"/v2/{'a/' * 4000}a/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/_app/tags/list", 400, "NAME_INVALID"),
        ("/v2/library/app/manifests/.hidden", 400, "MANIFEST_INVALID"),
        ("/v2/library/app/manifests/-x", 400, "MANIFEST_INVALID"),
        (f"/v2/library/app/manifests/{'a' * 129}", 400, "MANIFEST_INVALID"),
        ("/v2/library/app/manifests/a%20b", 400, "MANIFEST_INVALID"),
        ("/v2/library/app/manifests/sha256:short", 400, "DIGEST_INVALID"),
        (f"/v2/library/app/manifests/md5:{'0' * 32}", 400, "DIGEST_INVALID"),
        ("/v2/library/app/blobs/latest", 400, "DIGEST_INVALID"),
        (f"/v2/library/app/blobs/sha256:{'0' * 63}", 400, "DIGEST_INVALID"),
        (f"/v2/library/app/blobs/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        (f"/v2/library/app/blobs/sha256:{'0' * 65}", 400, "DIGEST_INVALID"),
        ("/v2/library/app/blobs/sha256:%2e%2e%2f%2e%2e%2fcatalog.sqlite", 404, "NAME_UNKNOWN"),
        ("/v2/library/app/referrers/latest", 400, "DIGEST_INVALID"),
        ("/v2/library/app/tags/list?n=-1", 400, "UNSUPPORTED"),
        ("/v2/library/app/tags/list?n=many", 400, "UNSUPPORTED"),
        ("/v2/_catalog?n=-1", 400, "UNSUPPORTED"),
        ("/v2/other/app/manifests/1", 404, "NAME_UNKNOWN"),
        (f"/v2/other/app/blobs/{DIGEST}", 404, "NAME_UNKNOWN"),
        ("/v2/other/app/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/library/app/nothing/1", 404, "NAME_UNKNOWN"),
        ("/v1/search", 404, "NAME_UNKNOWN"),
    ],
)
def test_a_malformed_or_unknown_address_is_refused(
    path: str, status: int, code: str, shared: Entrepot, source: DockerRegistry
) -> None:
    before = source.mark()
    _assert_refused(shared.get(path), status, code)
    assert source.requests_since(before) == []


@pytest.mark.parametrize(
    "header",
    ["bytes=2-1", "bytes=x-", "bytes", "bytes=-", "bytes=1-2-3", "bytes=--1", "bytes=0-1,x"],
)
def test_a_malformed_range_is_ignored(header: str, shared: Entrepot, app: FakeImage) -> None:
    layer = app.platforms[AMD64].layers[0]
    answer = shared.get(f"/v2/library/app/blobs/{layer.digest}", headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, layer.content)


@pytest.mark.parametrize("header", ["bytes=3999999999-", "bytes=-0"])
def test_a_range_outside_the_blob_is_not_satisfiable(
    header: str, shared: Entrepot, app: FakeImage
) -> None:
    layer = app.platforms[AMD64].layers[0]
    answer = shared.get(f"/v2/library/app/blobs/{layer.digest}", headers={"Range": header})
    _assert_refused(answer, 416, "RANGE_INVALID")
    assert answer.headers["content-range"] == f"bytes */{layer.size}"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, None),
        ("bytes=-1000", -1000, None),
        ("bytes=5-3999999999", 5, None),
        (f"bytes=5-{'9' * 30}", 5, None),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(
    header: str, start: int, end: int | None, shared: Entrepot, app: FakeImage
) -> None:
    layer = app.platforms[AMD64].layers[0]
    answer = shared.get(f"/v2/library/app/blobs/{layer.digest}", headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, layer.content[start:end])
    content_range = re.fullmatch(
        rf"bytes (\d+)-(\d+)/{layer.size}", answer.headers["content-range"]
    )
    assert content_range is not None
    first, last = map(int, content_range.groups())
    assert layer.content[first : last + 1] == answer.content


@pytest.mark.parametrize("header", ["nonsense", "application/", "*; q=.2", ";;=", "\u00e4/\u00e4"])
def test_f70_what_can_not_be_read_in_an_accept_header_is_skipped(
    header: str, shared: Entrepot, app: FakeImage
) -> None:
    answer = shared.get("/v2/library/app/manifests/1", headers={"Accept": header.encode()})
    assert (answer.status_code, answer.content) == (200, app.manifest.content)


def test_a_client_that_accepts_none_of_the_formats_gets_the_one_there_is(
    shared: Entrepot, app: FakeImage
) -> None:
    answer = shared.get("/v2/library/app/manifests/1", headers={"Accept": "text/html"})
    _assert_refused(answer, 404, "MANIFEST_UNKNOWN")
    assert app.manifest.media_type in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v2/library/app/manifests/1"),
        ("POST", "/v2/library/app/blobs/uploads/"),
        ("DELETE", f"/v2/library/app/blobs/{DIGEST}"),
        ("PATCH", "/v2/"),
    ],
)
def test_what_would_change_something_is_refused(method: str, path: str, shared: Entrepot) -> None:
    answer = httpx.request(
        method, f"{shared.url}{path}", content=b"x" * 100_000, trust_env=False, verify=False
    )
    _assert_refused(answer, 405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2_000_000 + b"\r\n\r\n",
        b"GET /v2/" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET \x00\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 1000,
    ],
    ids=["huge header", "huge address", "TLS", "another HTTP", "no address", "no request"],
)
def test_bytes_that_are_no_request_do_not_disturb_the_others(
    request_bytes: bytes, shared: Entrepot
) -> None:
    host, _, port = shared.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1000)
        except OSError:
            # It was cut before all was sent.
            answer = b""
    assert answer == b"" or re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer
    assert shared.get("/v2/").status_code == 200
    assert "Traceback" not in shared.process.output
