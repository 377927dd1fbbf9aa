"""Manifests and catalogs for the tests of the store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository
from entrepot.store.blob_walk import BlobSlice
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.store.reconciliation import RemoveDamaged, StatSize
from entrepot.store.removal import RemoveBlobs

NGINX = Repository("library/nginx")
DEBIAN = Repository("library/debian")
SOURCE = "docker.io/library/nginx"


def descriptor(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/octet-stream",
        "digest": str(Digest.of(name.encode())),
        "size": size,
        **more,
    }


def image(*layers: str) -> Manifest:
    content = json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(f"config of {layers}", 10),
            "layers": [descriptor(each, 100) for each in layers],
        }
    ).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def index(**images: Manifest) -> Manifest:
    listed = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(each.digest),
            "size": len(each.content),
            "platform": {"os": "linux", "architecture": name},
        }
        for name, each in images.items()
    ]
    content = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


def sizes_of(manifest: Manifest) -> dict[Digest, int]:
    """The blobs of a manifest whose sizes it states."""
    return {blob.digest: blob.size for blob in manifest.blobs if blob.size is not None}


async def blobs_of(catalog: Catalog, repository: Repository) -> dict[Digest, Descriptor]:
    """The blobs that the manifests of a repository refer to, each as a look-up has it."""
    blobs = {}
    for digest in await catalog.manifests_of(repository):
        manifest = await catalog.manifest(digest, repository)
        assert manifest is not None
        for blob in manifest.blobs:
            descriptor = (await catalog.lookup_blob(repository, blob.digest)).value
            assert descriptor is not None
            blobs[blob.digest] = descriptor
    return blobs


class RemovedBlobs(list[Digest]):
    """The blobs that a collection removed, as the callback that the catalog asks."""

    async def remove_blobs(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        self.extend(digests)
        return digests


def removing(is_removable: Callable[[Digest], bool]) -> RemoveBlobs:
    """The callback of a store in which some blobs can be removed."""

    async def remove_blobs(digests: Sequence[Digest]) -> Sequence[Digest]:
        return [digest for digest in digests if is_removable(digest)]

    return remove_blobs


async def cache_blobs(catalog: Catalog, manifest: Manifest) -> None:
    for digest, size in sizes_of(manifest).items():
        await catalog.add_blob(digest, size, now=1.0)


async def reconcile(
    catalog: Catalog,
    file_sizes: Mapping[Digest, int],
    *,
    now: float,
    stat_size: StatSize | None = None,
    remove_damaged: RemoveDamaged = lambda _digest, _size: False,
) -> tuple[int, int]:
    """Reconcile all blobs as one slice; how many were adopted, and how many dropped."""
    everything = BlobSlice(
        "sha256:", "sha512:g", {str(digest): size for digest, size in file_sizes.items()}
    )
    reconciled = await catalog.reconcile(
        everything,
        now=now,
        stat_size=stat_size if stat_size is not None else file_sizes.get,
        remove_damaged=remove_damaged,
    )
    return reconciled.adopted, reconciled.dropped


VERSION_1 = Path(__file__).parents[1] / "data/catalog-version-1.sql"
"""A dump of a catalog as the engine wrote it when there were no locks: one index with two tags, one
of its images held."""


def written_by_version_1(path: Path, *, and_then: str = "") -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1.read_text() + and_then)
    connection.close()
