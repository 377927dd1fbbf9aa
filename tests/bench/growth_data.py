"""A data directory as if very much had been pulled.

``python growth_data.py ROOT repositories COUNT`` writes COUNT repositories, and
``python growth_data.py ROOT tags COUNT`` the repository `LARGE` with as many tags, and one more. It
is a program of its own that needs nothing but an installed Entrepot, whose tables it fills in bulk:
an earlier version can write what a later one then opens. *ROOT* has the directories of
`tests.e2e.clients.entrepot.Entrepot`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert

from entrepot.config.directories import Directories
from entrepot.core.reference import Digest
from entrepot.store import counters, schema
from entrepot.store.blobs import BlobStore

LARGE = "big/one"
"""A repository that no rule answers for."""

RULES = 97
"""Rules, ``team-00/*`` and on, that share the other repositories."""

SHARED_BY = 100
"""Repositories with the same three blobs."""

FLUSH = 2_000
"""Images that are written at once."""

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

LOGIN_SERVER = "registry.example.com"


def repository_name(number: int) -> str:
    """The name of a repository by its number."""
    return f"team-{number % RULES:02}/app-{number:06}"


def tag_name(number: int) -> str:
    """The name of a tag of `LARGE` by its number."""
    return f"v{number:06}"


@dataclass
class Catalog:
    """A catalog, its rows on their way, and the files of its blobs."""

    connection: Connection
    store: BlobStore
    now: float
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    images: int = 0

    def add(self, table: str, **values: Any) -> None:
        self.rows.setdefault(table, []).append(values)

    def flush(self) -> None:
        # In the order in which they refer to each other.
        for table in schema.repositories.metadata.sorted_tables:
            if rows := self.rows.pop(table.name, None):
                self.connection.execute(insert(table), rows)
        self.connection.commit()

    def blob(self, content: bytes, used: float) -> tuple[str, int]:
        """Write a blob that is not there yet; returns digest and size."""
        digest = Digest.of(content)
        if digest.hex not in self.written:
            self.written.add(digest.hex)
            path = self.store.path(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            self.add("blobs", digest=str(digest), size=len(content), cached=used, last_used=used)
            self.add(
                "blob_origins",
                digest=str(digest),
                login_server=LOGIN_SERVER,
                with_credentials=False,
            )
        return str(digest), len(content)

    def image(self, repository: str, number: int, used: float) -> tuple[str, int]:
        """An image of a config and four layers, of which three are shared; returns the digest of
        its manifest, and the bytes of all of it."""
        config = {"architecture": "amd64", "os": "linux", "of": f"{repository} {number}"}
        own = f"layer of {repository} {number} ".encode() + b"x" * 100
        shared = [
            f"shared {number // SHARED_BY} {layer} ".encode() + b"y" * 200 for layer in range(3)
        ]
        described = [
            ("config", CONFIG_TYPE, *self.blob(json.dumps(config).encode(), used)),
            *(("layer", LAYER_TYPE, *self.blob(layer, used)) for layer in (own, *shared)),
        ]
        descriptors = [
            {"mediaType": media_type, "digest": digest, "size": size}
            for _, media_type, digest, size in described
        ]
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": descriptors[0],
                "layers": descriptors[1:],
            },
            indent=1,
        ).encode()
        manifest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.add("manifests", digest=manifest, media_type=MANIFEST_TYPE, content=content)
        self.add(
            "repository_manifests",
            repository=repository,
            digest=manifest,
            platform="linux/amd64",
            cached=used,
            last_pull=used,
            last_used=used,
            media_type=MANIFEST_TYPE,
        )
        for position, (kind, media_type, digest, size) in enumerate(described):
            self.add(
                "manifest_references",
                manifest=manifest,
                position=position,
                digest=digest,
                kind=kind,
                media_type=media_type,
                size=size,
                optional=False,
            )
        self.images += 1
        if self.images % FLUSH == 0:
            self.flush()
        return manifest, len(content) + sum(size for *_, size in described)

    def tag(self, repository: str, name: str, manifest: str, used: float) -> None:
        self.add(
            "tags",
            repository=repository,
            name=name,
            digest=manifest,
            cached=used,
            checked=self.now,
            last_pull=used,
            gone=False,
        )

    def repository(self, name: str, used: float, *, tags: int, manifests: int, size: int) -> None:
        self.add(
            "repositories",
            name=name,
            source=f"{LOGIN_SERVER}/{name}",
            created=used,
            last_pull=used,
            pulls=tags,
            tags=tags,
            manifests=manifests,
            size=size,
        )


def _repositories(catalog: Catalog, count: int) -> None:
    for number in range(count):
        name, used = repository_name(number), catalog.now - number
        manifest, size = catalog.image(name, number, used)
        catalog.repository(name, used, tags=2, manifests=1, size=size)
        for tag in ("latest", tag_name(number)):
            catalog.tag(name, tag, manifest, used)


def _tags(catalog: Catalog, count: int) -> None:
    _repositories(catalog, 1)
    # Its size is counted at the end: the shared blobs count once.
    catalog.repository(LARGE, catalog.now, tags=count, manifests=count, size=0)
    for number in range(count):
        used = catalog.now - number
        manifest, _ = catalog.image(LARGE, number, used)
        catalog.tag(LARGE, tag_name(number), manifest, used)
    catalog.flush()
    catalog.connection.execute(counters.recount())


def write(root: Path, what: str, count: int) -> None:
    """Write a data directory."""
    directories = Directories(*(root / part / "entrepot" for part in "cdrs"))
    directories.make()
    engine = create_engine(f"sqlite:///{directories.catalog}")
    event.listen(engine, "connect", _without_guarantees)
    with engine.connect() as connection:
        schema.create(connection, counters.recount())
        connection.commit()
        # An hour ago: what was used within the last minute is not evicted.
        store = BlobStore(directories.blobs, directories.fills)
        catalog = Catalog(connection, store, time.time() - 3600)
        {"repositories": _repositories, "tags": _tags}[what](catalog, count)
        catalog.flush()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()
    engine.dispose()


def _without_guarantees(connection: Any, _: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=OFF"):
        connection.execute(f"PRAGMA {pragma}")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
