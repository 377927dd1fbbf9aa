"""What cached manifests are, read from their bytes once for each digest."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import Connection, select

from entrepot.core.artifact_kinds import ArtifactKind, artifact_kind
from entrepot.encoding import first_json_value
from entrepot.formatting import printable
from entrepot.store import schema

KINDS_IN_MEMORY = 20_000
"""Digests whose kind stays in memory, some 200 bytes each: a listing is polled, and the bytes of
its manifests are not read again."""

ARTIFACT_TYPE_LENGTH = 255
"""Characters of an artifact type that are shown; media types have no more (RFC 6838)."""


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str | None = None


class _Document(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    artifact_type: str | None = None
    config: _Typed | None = None
    layers: list[_Typed] | None = None
    blobs: list[_Typed] | None = None
    """The layers of an artifact manifest, which release candidates of OCI 1.1 had."""
    manifests: list[_Typed] | None = None


_decoder = msgspec.json.Decoder(_Document)


def kind_of(content: bytes, media_type: str) -> ArtifactKind:
    """The kind of a manifest, by its bytes and the media type that its source gave."""
    try:
        document = _decoder.decode(first_json_value(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = _Document()
    layers = document.layers or document.blobs or document.manifests or ()
    kind = artifact_kind(
        media_type,
        artifact_type=document.artifact_type or "",
        config_type=(document.config.media_type or "") if document.config is not None else "",
        layer_types=[layer.media_type or "" for layer in layers],
    )
    if kind.artifact_type is None:
        return kind
    return kind._replace(artifact_type=printable(kind.artifact_type, ARTIFACT_TYPE_LENGTH))


class ArtifactKinds:
    """The kinds of cached manifests, those of the last listings in memory.

    Reader threads use it side by side.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], ArtifactKind] = {}

    def read(
        self, connection: Connection, manifests: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], ArtifactKind]:
        """The kinds of manifests, by digest and media type; those without a row are left out."""
        if len(self._kinds) > KINDS_IN_MEMORY:
            self._kinds = {}
        kinds = self._kinds
        types = {
            digest: media_type
            for digest, media_type in manifests
            if (digest, media_type) not in kinds
        }
        content = schema.manifests.c
        for chunk in schema.chunks(list(types)):
            query = select(content.digest, content.content).where(content.digest.in_(chunk))
            for row in connection.execute(query):
                key = row.digest, types[row.digest]
                kinds[key] = kind_of(row.content, key[1])
        return {key: kinds[key] for key in manifests if key in kinds}
