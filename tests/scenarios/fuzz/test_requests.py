"""Requests of clients: addresses, queries, headers and bodies."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.engine.engine import Engine
from entrepot.httpd.server import HttpServer, bind_tcp
from entrepot.server.run import management_app, registry_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.scenarios.fuzz.conftest import Watch, ask, examples

DIGEST = "sha256:" + "a" * 64
NUMBERS = st.one_of(
    st.integers(-2, 30),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, 10**30, "9" * 5000, "٣", "1e9", "0x1", "-0", "1_0"]),
).map(str)
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)

# Addresses

PARTS = st.one_of(
    st.sampled_from(
        [
            "library",
            "nginx",
            "library/nginx",
            "1.27",
            "manifests",
            "blobs",
            "tags",
            "list",
            "referrers",
            "_catalog",
            "uploads",
            DIGEST,
            "a" * 300,
            "..",
            ".",
        ]
    ),
    TEXT,
)
PATHS = st.one_of(
    st.tuples(
        st.sampled_from(["library/nginx", "library/a", "nginx", "library/" + "a/" * 100 + "a"])
        | TEXT,
        st.sampled_from(["manifests", "blobs", "tags", "referrers"]),
        st.sampled_from(
            ["1.27", "list", DIGEST, "sha512:" + "a" * 128, "sha256:" + "A" * 64, "x" * 200]
        )
        | TEXT,
    ).map(lambda parts: "/v2/" + "/".join(parts)),
    st.lists(PARTS, max_size=6).map(lambda parts: "/v2/" + "/".join(parts)),
    TEXT.map(lambda text: f"/{text}"),
)
QUERIES = st.one_of(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["n", "last", "ns", "artifactType", "limit", "orderby", "recent", "running", "rule"]
            ),
            NUMBERS | TEXT,
        ),
        max_size=4,
    ).map(lambda pairs: urlencode(pairs).encode()),
    # The server hands in what is not ASCII as percents.
    st.text(st.characters(max_codepoint=127), max_size=60).map(str.encode),
)

# Headers

MEDIA = st.sampled_from(
    [
        "*/*",
        "application/*",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "text/html",
        "a/b;q=0",
        "q=1",
        ";",
        "",
    ]
)
ACCEPT = st.lists(
    st.one_of(MEDIA, st.tuples(MEDIA, NUMBERS).map(lambda pair: f"{pair[0]};q={pair[1]}"), TEXT),
    max_size=8,
).map(",".join)
RANGE = st.one_of(
    st.tuples(
        st.sampled_from(["bytes=", "bytes =", "Bytes=", "items=", ""]),
        st.lists(st.tuples(NUMBERS | st.just(""), NUMBERS | st.just("")), max_size=6),
    ).map(lambda drawn: drawn[0] + ",".join(f"{first}-{last}" for first, last in drawn[1])),
    st.integers(1, 4000).map(lambda many: "bytes=" + ",".join(["0-0"] * many)),
    TEXT,
)
TAGS = st.one_of(
    st.sampled_from(["*", f'"{DIGEST}"', f'W/"{DIGEST}"', '"', "W/", "," * 5000, '"a",' * 2000]),
    TEXT,
)
NAMES = st.sampled_from([b"if-none-match", b"if-match", b"if-range", b"if-modified-since"])
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just(b"accept"), ACCEPT),
        st.tuples(st.just(b"range"), RANGE),
        st.tuples(NAMES, TAGS),
        st.tuples(
            st.sampled_from(
                [
                    b"user-agent",
                    b"authorization",
                    b"content-length",
                    b"content-type",
                    b"oci-namespace",
                ]
            ),
            NUMBERS | TEXT,
        ),
    ),
    max_size=4,
).map(lambda headers: [(name, value.encode("utf-8", "replace")) for name, value in headers])
METHODS = st.sampled_from(
    ["GET", "GET", "GET", "HEAD", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]
)


@examples(150)
@given(
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["manifest", "index", "layer", "config", "tags", "referrers"]),
    QUERIES,
    HEADERS,
)
async def test_what_is_cached_is_answered_whatever_the_headers(
    cached: Engine,
    source: FakeRegistry,
    watch: Watch,
    method: str,
    kind: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    [pull] = cached.cache.pulls.all()
    digest = pull.progress().digest
    layers = [layer.digest for layer in pull.progress().layers]
    path = {
        "manifest": f"manifests/{digest}",
        "index": "manifests/1.27",
        "layer": f"blobs/{layers[-1]}",
        "config": f"blobs/{layers[0]}",
        "tags": "tags/list",
        "referrers": f"referrers/{digest}",
    }[kind]
    with watch.example():
        reply = await ask(
            registry_app(cached),
            f"/v2/library/nginx/{path}",
            method=method,
            query=query,
            headers=headers,
        )
        assert reply.status in {200, 206, 304, 400, 404, 406, 412, 416}, reply
        assert method != "HEAD" or reply.body == b""
        assert reply.broken is False


@examples(200)
@given(METHODS, PATHS, QUERIES, HEADERS)
async def test_any_address_of_the_registry_is_answered(
    cached: Engine,
    watch: Watch,
    method: str,
    path: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    with watch.example():
        reply = await ask(registry_app(cached), path, method=method, query=query, headers=headers)
        assert reply.status < 500 or reply.status in {502, 503, 504}, reply
        assert (
            reply.status < 400
            or method == "HEAD"
            or path == "/readyz"
            or json.loads(reply.body)["errors"]
        ), reply


RESOURCES = st.sampled_from(
    [
        *(
            "cacheRules",
            "cacheRules/example-library",
            "cacheRules/another",
            "credentialSets",
            "credentialSets/example-login",
        ),
        *(
            "rules",
            "status",
            "activity",
            "pulls",
            "pulls/1",
            "repositories",
            "match",
            "upstreams",
            "imports",
            "evict",
            "refresh",
        ),
        *(
            "checks/cacheRule",
            "checks/credentialSet",
            "checks/import",
            "checks/eviction",
            "rules/example-library/plan",
        ),
        *(
            "repositories/library/nginx",
            "repositories/library/nginx/_plan",
            "repositories/library/nginx/_tags/1.27",
            "repositories/library/nginx/_tags/1.27/_plan",
        ),
    ]
).map(lambda path: f"/entrepot/v1/{path}")
ACR = st.one_of(
    st.sampled_from(
        [
            "_catalog",
            "library/nginx",
            "library/nginx/_tags",
            "library/nginx/_tags/1.27",
            f"library/nginx/_manifests/{DIGEST}",
        ]
    ),
    TEXT,
).map(lambda path: f"/acr/v1/{path}")
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
# No identifier of a secret that would have a program run or a file read, and no login server that
# would be looked up.
WORDS = st.sampled_from(
    [
        "library/nginx:1.27",
        "library/nginx",
        "library/*",
        "*",
        f"{LOGIN_SERVER}/library/*",
        f"{LOGIN_SERVER}/a/*",
        "a/*",
        LOGIN_SERVER,
        "env:NONE_SUCH",
        "linux/amd64",
        "5m",
    ]
)
FIELDS = st.sampled_from(
    [
        *(
            "name",
            "image",
            "platform",
            "askedBy",
            "target",
            "document",
            "content",
            "sourceRepository",
            "targetRepository",
            "loginServer",
            "freshness",
            "credentialSet",
        ),
        *(
            "usernameId",
            "passwordId",
            "properties",
            "authCredentials",
            "credentialSetResourceId",
            "source",
            "reference",
            "deleteEnabled",
            "writeEnabled",
        ),
    ]
)
DOCUMENTS = st.dictionaries(
    FIELDS,
    st.one_of(WORDS, ANYTHING, st.dictionaries(FIELDS, st.one_of(WORDS, ANYTHING), max_size=3)),
    max_size=5,
)
BODIES = st.one_of(
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    st.sampled_from(
        [
            b"",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"9" * 10_000,
            b'{"image": "\\ud800"}',
            b"\xff\xfe",
            b"null",
        ]
    ),
    st.binary(max_size=40),
)


@examples(200)
@given(METHODS, st.one_of(RESOURCES, RESOURCES, ACR), QUERIES, HEADERS, BODIES)
async def test_any_request_to_the_management_is_answered(
    cached: Engine,
    watch: Watch,
    method: str,
    path: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    with watch.example():
        reply = await ask(
            management_app(cached), path, method=method, query=query, headers=headers, body=body
        )
        assert reply.status < 500 or reply.status in {502, 503, 504}, reply
        assert not reply.body or msgspec.json.decode(reply.body) is not ...


LINES = st.one_of(
    st.sampled_from(
        [
            *(
                b"GET /v2/ HTTP/1.1",
                b"GET  /v2/  HTTP/1.1",
                b"GET http://x/v2/ HTTP/1.1",
                b"GET * HTTP/1.1",
                b"CONNECT x:1 HTTP/1.1",
                b"HEAD /v2/ HTTP/1.0",
                b"PRI * HTTP/2.0",
            ),
            *(
                b"GET /v2/%zz%00%ff HTTP/1.1",
                b"GET //v2//a HTTP/1.1",
                b"GET /entrepot/v1/rules?\xff=\x80 HTTP/1.1",
                b"GET /v2/?" + b"a" * 9000 + b" HTTP/1.1",
                b"GET /v2/ HTTP/9.9",
                b"GET /v2/",
                b"\x16\x03\x01",
            ),
        ]
    ),
    st.binary(max_size=60),
)
FIELD_LINES = st.one_of(
    st.sampled_from(
        [
            *(
                b"Host: x",
                b"Host:",
                b"Content-Length: 5",
                b"Content-Length: -1",
                b"Content-Length: 99999999999999999999",
                b"Transfer-Encoding: chunked",
                b"Expect: 100-continue",
            ),
            *(
                b"Connection: close",
                b"Connection: upgrade",
                b"Upgrade: websocket",
                b"Host: x" * 2000,
                b" folded",
                b"\x00: \x00",
                b"Range: bytes=0-0",
                b"Accept-Encoding: \xff",
            ),
        ]
    ),
    st.binary(max_size=40),
)


@pytest.mark.parametrize("management", [False, True], ids=["registry", "management"])
@examples(60)
@given(LINES, st.lists(FIELD_LINES, max_size=5), st.binary(max_size=60))
async def test_bytes_that_are_hardly_http_end_in_an_answer_or_a_closed_connection(
    cached: Engine, watch: Watch, management: bool, line: bytes, fields: list[bytes], body: bytes
) -> None:
    server = HttpServer(management_app(cached) if management else registry_app(cached))
    listener = bind_tcp("127.0.0.1", 0)
    await server.listen(listener)
    async with AsyncExitStack() as ending, asyncio.timeout(60):
        ending.push_async_callback(server.stop, grace=0.0, abort_timeout=1.0)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        with watch.example():
            ending.callback(writer.close)
            writer.write(b"\r\n".join([line, *fields, b"", body]))
            writer.write_eof()
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
            assert not answer.startswith(b"HTTP/1.1 500"), answer[:200]
