"""An import under way: what ``entrepot import`` reads of an archive and sends to an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.api.transfer_models import ImportedImage, MissingBlob, TransferredTag
from entrepot.archive.layout import (
    CACHED,
    CHECKED,
    CONTAINERD_NAME,
    GONE,
    LAST_PULL,
    LOCKED,
    PLATFORM,
    REF_NAME,
    REPOSITORY,
    SOURCE,
    TAG,
    UNTYPED,
    ArchiveEntry,
    ArchiveInvalid,
    children_of,
    parse_time,
    stated_type,
)
from entrepot.archive.reading import CHUNK, Archive, content_of, open_archive
from entrepot.cli.output import note
from entrepot.cli.transfer_progress import TransferProgress
from entrepot.core.reference import Digest, ImageReference, parse_repository, parse_tag
from entrepot.core.states import TagImport
from entrepot.errors import EntrepotError, Refusal
from entrepot.formatting import counted, duration, printable, size

MANIFEST_LIMIT = 32 * 1024 * 1024
"""Bytes of a manifest that are read of an archive; the engine may accept fewer."""

NESTED_INDEXES = 4
"""Indexes within each other that are followed."""

MANIFESTS_LIMIT = 10_000
"""Manifests of one image."""


class NameNotMapped(EntrepotError):
    """No repository here belongs to the name of an image in an archive."""

    code = "NameNotMapped"


class ImportSummary(msgspec.Struct, rename="camel"):
    """What an import did; sizes in bytes."""

    source: str
    images: list[ImportedImage] = []
    failed: dict[str, str] = {}
    blobs: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of an archive, and where it belongs here."""

    repository: str
    tag: str | None
    source: str | None

    def __str__(self) -> str:
        return self.repository if self.tag is None else f"{self.repository}:{self.tag}"


async def import_archive(
    client: CacheClient, source: str, *, repository: str | None, rule: str | None
) -> ImportSummary:
    """Import the images of an archive."""
    if repository is not None:
        parse_repository(repository)
    with open_archive(source) as archive:
        return await _Import(client, archive, ImportSummary(source), repository, rule).run()


class _Import:
    """One import under way."""

    def __init__(
        self,
        client: CacheClient,
        archive: Archive,
        summary: ImportSummary,
        repository: str | None,
        rule: str | None,
    ) -> None:
        self._client = client
        self._archive = archive
        self._summary = summary
        self._repository = repository
        self._rule = rule
        self._progress = TransferProgress("Importing")

    async def run(self) -> ImportSummary:
        """Import images one after the other; referrers follow the images."""
        entries = sorted(self._archive.entries, key=_is_without_name)
        self._progress.total = len(entries)
        for entry in entries:
            name = _shown_name(entry)
            self._progress.begin(name)
            try:
                image = await self._place(entry)
                imported = await self._import(entry, image)
            except (EngineRefused, ArchiveInvalid, NameNotMapped, Refusal) as error:
                self._failed(name, printable(error.message, 1_000))
                continue
            self._summary.images.append(imported)
            if imported.outcome is TagImport.NEWER_HERE:
                self._progress.note(
                    f"{image} stays as it is: its source was asked later here than at the other "
                    "site."
                )
            elif imported.outcome is TagImport.INDEX_HERE:
                self._progress.note(
                    f"{image} stays as it is: it is an index here, which lists the imported image."
                )
        self._progress.clear()
        note(
            f"{counted(len(self._summary.images), 'image')} imported from "
            f"{printable(self._summary.source)}: {counted(self._summary.blobs, 'blob')} "
            f"({size(self._summary.size)}) sent in {duration(self._progress.seconds)}."
        )
        return self._summary

    def _failed(self, name: str, reason: str) -> None:
        self._summary.failed[name] = reason
        self._progress.note(f"Error: {printable(name)} is not imported: {reason}")

    async def _place(self, entry: ArchiveEntry) -> _Image:
        """Where an image belongs; raises `NameNotMapped` or a `Refusal`."""
        annotations = entry.annotations
        name = annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME) or ""
        source = annotations.get(SOURCE)
        if (repository := annotations.get(REPOSITORY)) is not None:
            tag = annotations.get(TAG)
            return _Image(
                parse_repository(self._repository or repository),
                None if tag is None else parse_tag(tag),
                source,
            )
        if self._repository is not None:
            return _Image(self._repository, _tag_of(name), None)
        if not name or (":" not in name and "/" not in name):
            raise NameNotMapped(
                "The archive gives it "
                + (f"only the tag {printable(name, 130)}." if name else "no name."),
                "Say where it belongs: --repository library/nginx",
            )
        match = await self._client.rules.match(name)
        if match.repository is None or match.rule is None:
            raise NameNotMapped(
                match.why_not or f"No cache rule answers for {printable(name, 300)}.",
                "Or say where it belongs: --repository library/nginx",
            )
        return _Image(match.repository, _tag_of(name), None)

    async def _import(self, entry: ArchiveEntry, image: _Image) -> ImportedImage:
        # Before the first is sent: the engine gets nothing of an image that can't be imported.
        manifests = self._manifests_of(entry, image)
        for digest, media_type in manifests.items():
            await self._add(image, entry, digest, media_type)
        return await self._client.transfer.put_image(
            image.repository,
            str(entry.digest),
            tag=image.tag,
            state=_state(entry) if image.tag is not None else None,
            manifests=[str(digest) for digest in manifests],
            rule=self._rule,
            source=image.source,
        )

    def _manifests_of(self, entry: ArchiveEntry, image: _Image) -> dict[Digest, str]:
        """The media types of an image's manifests that the archive has, an index before its own.

        Raises `ArchiveInvalid`.
        """
        manifests: dict[Digest, str] = {}

        def visit(digest: Digest, media_type: str, depth: int) -> None:
            if digest in manifests:
                return
            content = content_of(self._archive, digest, MANIFEST_LIMIT)
            if content is None:
                if depth:
                    # An index may be sparse.
                    return
                raise ArchiveInvalid(f"The archive does not have the manifest {digest}.")
            if len(manifests) >= MANIFESTS_LIMIT:
                raise ArchiveInvalid(f"{image} has more than {MANIFESTS_LIMIT:,} manifests.")
            if media_type == UNTYPED:
                media_type = stated_type(content) or media_type
            manifests[digest] = media_type
            for child in children_of(content, media_type):
                if depth >= NESTED_INDEXES:
                    raise ArchiveInvalid(
                        f"{image} has more than {NESTED_INDEXES} indexes within each other."
                    )
                visit(child.digest, child.media_type, depth + 1)

        visit(entry.digest, entry.media_type, 0)
        return manifests

    async def _add(
        self, image: _Image, entry: ArchiveEntry, digest: Digest, media_type: str
    ) -> None:
        """Import a manifest, then the blobs that it names, as far as the archive has them."""
        content = content_of(self._archive, digest, MANIFEST_LIMIT)
        if content is None:
            raise ArchiveInvalid(f"The archive lost the manifest {digest} while it was read.")
        answer = await self._client.transfer.put_manifest(
            image.repository,
            str(digest),
            content,
            media_type,
            rule=self._rule,
            source=image.source,
            # The engine reads that of a child in the index.
            platform=entry.annotations.get(PLATFORM) if digest == entry.digest else None,
        )
        for blob in answer.missing:
            await self._send(image, blob)

    async def _send(self, image: _Image, blob: MissingBlob) -> None:
        """Send a blob, as far as the archive has it, from the byte that an earlier import reached.

        Where the bytes that are there turn out to be wrong, it is sent whole.
        """
        digest = Digest.parse(blob.digest)
        count = self._archive.size(digest)
        if count is None:
            return
        for offset in dict.fromkeys((blob.offset if count == blob.size else 0, 0)):
            try:
                await self._client.transfer.put_blob(
                    image.repository,
                    blob.digest,
                    count,
                    self._chunks(digest, offset, count),
                    offset=offset,
                )
            except EngineRefused as error:
                wrong_part = {"ImportOffsetMismatch", "ImportedContentInvalid"}
                if offset == 0 or error.code not in wrong_part:
                    raise
            else:
                self._summary.blobs += 1
                self._summary.size += count - offset
                return

    async def _chunks(self, digest: Digest, offset: int, count: int) -> AsyncIterator[bytes]:
        while offset < count:
            chunk = self._archive.read(digest, offset, min(CHUNK, count - offset))
            if not chunk:
                raise ArchiveInvalid(f"The archive became shorter within {digest}.")
            offset += len(chunk)
            self._progress.add(len(chunk))
            yield chunk


def _is_without_name(entry: ArchiveEntry) -> bool:
    return REF_NAME not in entry.annotations and CONTAINERD_NAME not in entry.annotations


def _shown_name(entry: ArchiveEntry) -> str:
    name = entry.annotations.get(REF_NAME) or entry.annotations.get(CONTAINERD_NAME)
    if name:
        return name
    repository = entry.annotations.get(REPOSITORY)
    return str(entry.digest) if repository is None else f"{repository}@{entry.digest}"


def _tag_of(name: str) -> str | None:
    """The tag that a name ends in; the name may be a tag alone."""
    if "@" in name:
        return None
    if ":" not in name and "/" not in name:
        return parse_tag(name) if name else None
    host, slash, rest = name.partition("/")
    reference = rest if slash and (":" in host or "." in host) else name
    return ImageReference.parse(reference).tag


def _state(entry: ArchiveEntry) -> TransferredTag | None:
    """The state that the tag had at the other site; None for an archive of another program."""
    annotations = entry.annotations
    cached, checked = parse_time(annotations.get(CACHED)), parse_time(annotations.get(CHECKED))
    if cached is None or checked is None:
        return None
    return TransferredTag(
        cached=cached,
        checked=checked,
        last_pull=parse_time(annotations.get(LAST_PULL)),
        gone=annotations.get(GONE) == "true",
        locked=annotations.get(LOCKED) == "true",
    )
