"""Manifests of a source registry: fetched, and checked by digest and media type.

The bytes stay as they came; what makes a manifest usable is decided here (OCI distribution
specification 1.1, "Pulling manifests").
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import msgspec

from entrepot.core import signed_manifests
from entrepot.core.media_types import INDEXES, MANIFEST_TYPES
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.encoding import first_json_value
from entrepot.source.content_encoding import is_json
from entrepot.source.decoding import Undecodable, decode, parse_media_type
from entrepot.source.errors import SourceAnswerInvalid
from entrepot.source.http import SourceResponse
from entrepot.source.refusals import ASK_PUBLISHER, NOT_A_REGISTRY
from entrepot.source.registry_api import RegistryApi, stated_digest
from entrepot.source.warnings import NO_NOTE, SourceNote

MANIFEST_ACCEPT = ", ".join((*MANIFEST_TYPES, "*/*;q=0.1"))
"""All four media types of images; another one only where the source has nothing better: an
artifact's own type."""

DOCUMENT_THREAD_THRESHOLD = 256 * 1024
"""Bytes from which a document is parsed in a thread: megabytes of JSON and their digest take a
tenth of a second, in which the event loop would serve no other client."""

_UNTYPED = frozenset(
    {"application/json", "application/octet-stream", "text/plain", "binary/octet-stream"}
)
_IMAGE_TYPES = frozenset(MANIFEST_TYPES)
_EMPTY_VALUES = frozenset({b"", b"null", b"[]", b"{}"})
"""JSON values without content, without white space."""


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a source states about a manifest without sending it.

    *size* is in bytes. Each field is None when the source does not state it.
    """

    digest: Digest | None
    media_type: str | None
    size: int | None
    note: SourceNote = NO_NOTE


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest, its bytes as they came.

    They have this digest; of a signed manifest of schema 1, its payload has it.
    """

    content: bytes
    media_type: str
    digest: Digest
    note: SourceNote = NO_NOTE


class _ManifestHint(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    config: msgspec.Raw = msgspec.Raw(b"")
    layers: msgspec.Raw = msgspec.Raw(b"")
    manifests: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return not _is_empty(self.manifests)

    @property
    def is_image(self) -> bool:
        """Whether it has a config or layers."""
        return not (_is_empty(self.config) and _is_empty(self.layers))


async def head_manifest(
    api: RegistryApi, repository: Repository, reference: Tag | Digest
) -> ManifestHead:
    """What the source states about a manifest, by HEAD."""
    about = api.describe(repository, reference)
    async with api.request(
        "HEAD",
        f"{repository}/manifests/{reference}",
        repository,
        {"Accept": MANIFEST_ACCEPT},
        about=about,
        accepted={200, 405, 501},
    ) as response:
        if response.status != 200:
            return ManifestHead(None, None, None)
        api.refuse_page(response, about)
        digest = stated_digest(response.headers)
        if isinstance(reference, Digest):
            if (
                digest is not None
                and digest.algorithm == reference.algorithm
                and digest != reference
            ):
                raise SourceAnswerInvalid(
                    f"{api.login_server} answers with another digest for {about}: {digest}.",
                    "Nothing of it was kept.",
                )
            digest = reference
        api.refuse_media_type(response, about)
        # Of another type the document may say something else, and only a GET shows that.
        media_type = response.media_type if response.media_type in _IMAGE_TYPES else None
        # Some registries put "Content-Length: 0" on every HEAD; no manifest is empty.
        # Nor is the length of one that is compressed on the way its size.
        size = response.length if response.length and response.coding is None else None
        return ManifestHead(digest, media_type, size, SourceNote.of(response.headers))


async def fetch_manifest(
    api: RegistryApi, repository: Repository, reference: Tag | Digest, *, limit: int
) -> FetchedManifest:
    """Fetch a manifest of at most *limit* bytes and check its digest.

    It is checked against the requested digest, or for a tag against the one that the source states.
    """
    about = api.describe(repository, reference)
    response, content = await api.read(
        f"{repository}/manifests/{reference}",
        repository,
        {"Accept": MANIFEST_ACCEPT},
        about=about,
        limit=limit,
    )
    digest = reference if isinstance(reference, Digest) else stated_digest(response.headers)
    manifest = await check_manifest(api, response, content, digest, about)
    return replace(manifest, note=SourceNote.of(response.headers))


async def check_manifest(
    api: RegistryApi, response: SourceResponse, content: bytes, digest: Digest | None, about: str
) -> FetchedManifest:
    """The manifest that a response is; raises `SourceAnswerInvalid` for anything else."""
    api.refuse_page(response, about)
    api.refuse_media_type(response, about)
    arguments = (api.login_server, response.media_type, content, digest, about)
    if len(content) < DOCUMENT_THREAD_THRESHOLD:
        return _read_manifest(*arguments)
    return await asyncio.to_thread(_read_manifest, *arguments)


def _read_manifest(
    server: str, content_type: str | None, content: bytes, digest: Digest | None, about: str
) -> FetchedManifest:
    try:
        hint = decode(first_json_value(content), _ManifestHint)
    except Undecodable:
        raise SourceAnswerInvalid(
            f"{server} answers with something that is no manifest for {about}.",
            ASK_PUBLISHER if is_json(content) else NOT_A_REGISTRY,
        ) from None
    # A document that names a type of its own is none of schema 1, which has no such field.
    signed_type = None if hint.media_type else content_type
    if digest is not None and not signed_manifests.matches(digest, content, signed_type):
        raise SourceAnswerInvalid(
            f"{server} sent wrong bytes for {about}: their digest is not {digest}.",
            "Nothing was kept. Pull again; if it happens again, something between here and the "
            "source changes what passes.",
        )
    media_type = _media_type(server, content_type, hint, about)
    if digest is None:
        digest = signed_manifests.digest_of(content, signed_type)
    return FetchedManifest(content, media_type, digest)


def _media_type(server: str, content_type: str | None, hint: _ManifestHint, about: str) -> str:
    """The media type of a manifest, by its header and by its own field.

    OCI image specification, "mediaType"; CVE-2021-41190. No client may take for an index what
    another one takes for an image: where header and field name different types of images, or the
    document is both, it is refused. A document that names a type of images under a header that
    names none has the type that it names: its digest covers that, and not the header.
    """
    own_type = None
    if hint.media_type:
        own_type = parse_media_type(hint.media_type)
        if own_type is None:
            raise SourceAnswerInvalid(
                f"{server} sent a manifest with a mediaType that is none for {about}.",
                ASK_PUBLISHER,
            )
    is_typed = content_type is not None and content_type not in _UNTYPED
    if own_type in _IMAGE_TYPES and content_type in _IMAGE_TYPES and own_type != content_type:
        raise SourceAnswerInvalid(
            f"{server} sent {about} as {content_type}, and the manifest says that it is "
            f"{own_type}.",
            ASK_PUBLISHER,
        )
    media_type = (
        own_type
        if own_type is not None and (not is_typed or own_type in _IMAGE_TYPES)
        else content_type
    )
    if media_type in _IMAGE_TYPES and (hint.is_index and hint.is_image):
        raise SourceAnswerInvalid(
            f"{server} sent a manifest that is an index and an image at once for {about}.",
            ASK_PUBLISHER,
        )
    if media_type in _IMAGE_TYPES and (hint.is_image if media_type in INDEXES else hint.is_index):
        kind, other = (
            ("an index", "an image") if media_type in INDEXES else ("an image", "an index")
        )
        raise SourceAnswerInvalid(
            f"{server} sent {about} as {kind}, and it is {other}.", ASK_PUBLISHER
        )
    return media_type or "application/octet-stream"


def _is_empty(value: msgspec.Raw) -> bool:
    content = memoryview(value)
    return len(content) < 64 and b"".join(bytes(content).split()) in _EMPTY_VALUES
