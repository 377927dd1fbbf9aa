"""Answers of source registries: manifests, listings, tokens, redirects, headers of all kinds."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.fakes import FakeRegistry, TokenSignIn
from tests.fakes.faults import Answer, Fault
from tests.fakes.transport import Request
from tests.scenarios.fuzz.conftest import Watch, ask, examples

ANSWERS = {200, 206, 400, 401, 403, 404, 406, 413, 416, 429, 502, 503, 504}
"""The statuses that a client may get when a source answers nonsense."""


@dataclass(frozen=True, slots=True)
class Instead(Fault):
    """Another answer altogether."""

    answer: Answer

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return self.answer


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
LINE = st.text(
    st.characters(min_codepoint=1, max_codepoint=255, blacklist_characters="\r\n"), max_size=40
)
NUMBER = st.one_of(
    st.integers(), st.sampled_from([-1, 0, 2**63, 2**64, 10**25, 10**400, 1e308, 0.5, True, "1"])
)
DIGEST = st.one_of(
    st.just("sha256:" + "a" * 64),
    st.sampled_from(
        ["sha256:" + "A" * 64, "sha512:" + "b" * 128, "sha256:", "md5:x", "../../etc/passwd", ""]
    ),
    TEXT,
)
MEDIA_TYPE = st.one_of(
    st.sampled_from(
        [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "application/json",
            "text/html",
        ]
    ),
    TEXT,
)
LEAF = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
ANYTHING = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
PLATFORM = st.fixed_dictionaries(
    {},
    optional={
        "os": st.sampled_from(["linux", "windows", "$(id)", "\x1b[2J"]) | LEAF,
        "architecture": st.just("amd64") | LEAF,
        "variant": TEXT,
        "os.features": ANYTHING,
    },
)
DESCRIPTOR = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "mediaType": MEDIA_TYPE,
            "digest": DIGEST,
            "size": NUMBER,
            "platform": PLATFORM | ANYTHING,
            "urls": ANYTHING,
        },
    ),
    ANYTHING,
)
MANIFEST = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.sampled_from([1, 2, "2", None]),
        "mediaType": MEDIA_TYPE | ANYTHING,
        "config": DESCRIPTOR,
        "layers": st.lists(DESCRIPTOR, max_size=4) | ANYTHING,
        "manifests": st.lists(DESCRIPTOR, max_size=4) | ANYTHING,
        "subject": DESCRIPTOR,
        "annotations": st.dictionaries(TEXT, LEAF, max_size=2) | ANYTHING,
        "fsLayers": ANYTHING,
    },
)
RAW = st.one_of(
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"layers":' * 20_000,
            b'{"schemaVersion":' + b"9" * 5000 + b"}",
            b'{"a":"\\ud800"}',
            b"",
            b"\xff\xfe{}",
            b"null",
            b"{" + b'"a":1,' * 10_000,
        ]
    ),
    st.binary(max_size=60),
)
BODY = st.one_of(MANIFEST.map(lambda document: json.dumps(document).encode()), RAW)
HEADER = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "Docker-Content-Digest",
                "Content-Type",
                "ETag",
                "Date",
                "Retry-After",
                "RateLimit-Remaining",
                "RateLimit-Limit",
                "Warning",
            ]
        ),
        LINE,
    ),
    st.tuples(
        st.just("Docker-Content-Digest"), DIGEST.map(lambda digest: quote(digest, safe=":/"))
    ),
    st.tuples(
        st.just("RateLimit-Limit"),
        st.sampled_from(["9" * 5000, "1;w=" + "9" * 400, "-1", "1e9;w=0", "0;w=0"]),
    ),
    st.tuples(
        st.just("Link"),
        st.sampled_from(
            [
                '</v2/x/tags/list?n=1>; rel="next"',
                "<" * 5000,
                '<>; rel="next"',
                '<//[::1>; rel="next"',
                "<http://[>; rel=next",
                ",;" * 2000,
            ]
        ),
    ),
    st.tuples(
        st.just("Location"),
        st.sampled_from(
            [
                "http://[",
                "//",
                "http://127.0.0.1:1/x",
                "http://127.0.0.1:99999999/",
                "file:///etc/passwd",
                "",
                "http://\x7f/",
                "/" * 5000,
            ]
        ),
    ),
    st.tuples(
        st.just("Content-Range"),
        st.sampled_from(["bytes 0-0/1", "bytes */*", "bytes 9-1/" + "9" * 5000, "items 1"]),
    ),
    st.tuples(
        st.just("WWW-Authenticate"),
        st.sampled_from(
            [
                'Bearer realm="http://127.0.0.1:1/t"',
                "Bearer",
                'Bearer realm="',
                "Basic " * 1000,
                'Bearer realm="http://["',
                "," * 5000,
            ]
        ),
    ),
)
HEADERS = st.lists(HEADER, max_size=3, unique_by=lambda header: header[0]).map(tuple)
_numbers = itertools.count()


async def _answered(
    engine: Engine,
    source: FakeRegistry,
    watch: Watch,
    path: str,
    part: str,
    answer: Answer,
    method: str = "GET",
) -> None:
    source.clear_faults()
    source.fault(part, Instead(answer))
    with watch.example():
        reply = await ask(registry_app(engine), path, method=method)
        assert reply.status in ANSWERS, reply
    assert source.requests, "the source is asked, and what it answers is not only remembered"
    source.requests.clear()


@examples(150)
@given(BODY, HEADERS, st.sampled_from(["GET", "HEAD"]))
async def test_any_manifest_is_answered(
    steady: Engine,
    source: FakeRegistry,
    watch: Watch,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    method: str,
) -> None:
    name = f"library/a{next(_numbers)}"
    await _answered(
        steady, source, watch, f"/v2/{name}/manifests/1", name, Answer(200, headers, body), method
    )


@examples(60)
@given(
    st.sampled_from([200, 201, 204, 206, 301, 302, 307, 400, 401, 403, 404, 416]),
    BODY,
    HEADERS,
    st.sampled_from(["manifests/1", "tags/list", "blobs/sha256:" + "a" * 64]),
)
async def test_any_status_with_any_headers_is_answered(
    steady: Engine,
    source: FakeRegistry,
    watch: Watch,
    status: int,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    kind: str,
) -> None:
    name = f"library/a{next(_numbers)}"
    await _answered(
        steady, source, watch, f"/v2/{name}/{kind}", name, Answer(status, headers, body)
    )


LISTING = st.fixed_dictionaries(
    {},
    optional={
        "name": LEAF,
        "tags": st.lists(TEXT | LEAF, max_size=5) | ANYTHING,
        "manifests": st.lists(DESCRIPTOR, max_size=3) | ANYTHING,
    },
)


@examples(80)
@given(
    st.one_of(LISTING.map(lambda document: json.dumps(document).encode()), RAW),
    HEADERS,
    st.sampled_from(["tags/list", "referrers/sha256:" + "a" * 64]),
)
async def test_any_listing_is_answered(
    steady: Engine,
    source: FakeRegistry,
    watch: Watch,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    kind: str,
) -> None:
    name = f"library/a{next(_numbers)}"
    await _answered(steady, source, watch, f"/v2/{name}/{kind}", name, Answer(200, headers, body))


TOKEN = st.fixed_dictionaries(
    {},
    optional={
        "token": LEAF,
        "access_token": LEAF,
        "expires_in": NUMBER | ANYTHING,
        "issued_at": st.sampled_from(["2026-13-99", "9" * 5000, "0001-01-01T00:00:00Z"]) | LEAF,
    },
)


@examples(60)
@given(st.one_of(TOKEN.map(lambda document: json.dumps(document).encode()), RAW), HEADERS)
async def test_any_token_is_answered(
    steady: Engine,
    source: FakeRegistry,
    watch: Watch,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
) -> None:
    source.sign_in = TokenSignIn()
    await _answered(
        steady,
        source,
        watch,
        f"/v2/library/a{next(_numbers)}/manifests/1",
        "/token",
        Answer(200, headers, body),
    )
