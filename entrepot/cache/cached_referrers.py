"""The referrers of a manifest that are cached, for while its source gives no answer.

Their manifests say what they are about (OCI image specification 1.1, "subject"), so that signatures
and SBOMs are found where no source is in reach.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Any

import msgspec

from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import artifact_type_of

REPOSITORIES = 100
"""Repositories whose referrers stay in memory, those used last."""

REFERRERS_LIMIT = 1_000
"""Referrers in an index at most."""


class _Annotated(msgspec.Struct):
    annotations: dict[str, str] | None = None


class CachedReferrers:
    """The cached referrers of one engine."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._by_subject: OrderedDict[Repository, tuple[int, dict[Digest, list[Digest]]]] = (
            OrderedDict()
        )
        """By repository: the state of the catalog that was read, and the referrers by subject."""

    async def of(self, repository: Repository, subject: Digest) -> list[Digest]:
        """The cached referrers of a manifest; raises `CatalogFailed`."""
        changes = self._catalog.changes
        known = self._by_subject.get(repository)
        if known is None or known[0] != changes:
            known = changes, await self._catalog.referrers_by_subject(repository)
            self._by_subject[repository] = known
        self._by_subject.move_to_end(repository)
        while len(self._by_subject) > REPOSITORIES:
            self._by_subject.popitem(last=False)
        return known[1].get(subject, [])

    async def index(self, repository: Repository, subject: Digest) -> bytes | None:
        """The index of the cached referrers of a manifest; None where there are none.

        Raises `CatalogFailed`.
        """
        descriptors = []
        for digest in (await self.of(repository, subject))[:REFERRERS_LIMIT]:
            manifest = await self._catalog.manifest(digest, repository)
            if manifest is not None:
                descriptors.append(
                    _descriptor(manifest.content, manifest.media_type, str(manifest.digest))
                )
        if not descriptors:
            return None
        return msgspec.json.encode(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
        )


def _descriptor(content: bytes, media_type: str, digest: str) -> dict[str, Any]:
    """A descriptor as OCI distribution 1.1, "Listing Referrers", has it."""
    descriptor: dict[str, Any] = {
        "mediaType": media_type,
        "digest": digest,
        "size": len(content),
    }
    if (artifact_type := artifact_type_of(content)) is not None:
        descriptor["artifactType"] = artifact_type
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        annotations = msgspec.json.decode(content, type=_Annotated).annotations
        if annotations:
            descriptor["annotations"] = annotations
    return descriptor
