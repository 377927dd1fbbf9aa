"""An export under way: what ``entrepot export`` reads of an engine and writes to an archive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused, EngineUnreachable
from entrepot.api.transfer_models import (
    ExportPlan,
    InventoryLine,
    PlannedBlob,
    PlannedManifest,
)
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
    ArchiveEntry,
    time_text,
)
from entrepot.archive.writing import (
    ArchiveDestination,
    BlobWriter,
    DigestDiffers,
    LayoutWriter,
    SavedImage,
    TarWriter,
    blob_name,
    disk_errors,
)
from entrepot.cli.output import note
from entrepot.cli.transfer_progress import TransferProgress
from entrepot.core.media_types import DOCKER_CONFIG, OCI_CONFIG
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.formatting import counted, duration, printable, size

ATTEMPTS = 5
"""Attempts to read a blob without a byte in between."""

RETRY_PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""

INVENTORY_LIMIT = 1024 * 1024 * 1024
"""Bytes of an inventory: some millions of blobs."""

INVENTORY_LINE = 64 * 1024
"""Bytes of a line of an inventory."""

_SIGNATURE_TAG = re.compile(r"sha(?:256|512)-[0-9a-f]{64,}(?:\.[a-z]+)?")


class ExportTargetInvalid(EntrepotError):
    """The target of an export is no directory and no tar file that can be written."""

    code = "ExportTargetInvalid"


class InventoryInvalid(EntrepotError):
    """A file is no inventory."""

    code = "InventoryInvalid"


class ExportSummary(msgspec.Struct, rename="camel"):
    """What an export did; sizes in bytes."""

    target: str
    images: list[str] = []
    failed: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    blobs: int = 0
    size: int = 0
    present: int = 0
    """Blobs that the target had already."""
    at_other_end: int = 0
    """Blobs that the other site has."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One image that is to be exported."""

    image: str
    is_named: bool
    """By the user; else it is an image of a rule or repository, or a signature."""


async def export_images(
    client: CacheClient,
    target: str,
    images: Sequence[str],
    *,
    rules: Sequence[str],
    repositories: Sequence[str],
    platforms: Sequence[str],
    cached_only: bool,
    missing_from: Path | None,
) -> ExportSummary:
    """Export images, and all tags of some rules and repositories."""
    at_other_end = _Inventory() if missing_from is None else _Inventory.read(missing_from)
    requests = [ExportRequest(image, True) for image in images]
    requests += [
        ExportRequest(image, False) for image in await _images_of(client, rules, repositories)
    ]
    with disk_errors(_path(target)), _open_target(target) as destination:
        run = _Export(
            client,
            destination,
            ExportSummary(target),
            platforms=platforms,
            cached_only=cached_only,
            at_other_end=at_other_end,
        )
        return await run.run(requests)


async def _images_of(client: CacheClient, rules: Sequence[str], names: Sequence[str]) -> list[str]:
    """All cached tags of some rules and repositories."""
    for rule in rules:
        # An error names the rules that there are.
        await client.rules.get(rule)
    chosen = list(names)
    if rules:
        folded = {rule.casefold() for rule in rules}
        chosen += [
            repository.name
            for repository in await client.repositories.list()
            if repository.rule is not None and repository.rule.casefold() in folded
        ]
    return [
        f"{name}:{tag.name}"
        for name in dict.fromkeys(chosen)
        for tag in (await client.repositories.get(name)).tags
    ]


class _Export:
    """One export under way."""

    def __init__(
        self,
        client: CacheClient,
        destination: ArchiveDestination,
        summary: ExportSummary,
        *,
        platforms: Sequence[str],
        cached_only: bool,
        at_other_end: _Inventory,
    ) -> None:
        self._client = client
        self._destination = destination
        self._summary = summary
        self._platforms = platforms
        self._cached_only = cached_only
        self._at_other_end = at_other_end
        self._progress = TransferProgress("Exporting")

    async def run(self, requests: Sequence[ExportRequest]) -> ExportSummary:
        """Export images one after the other, with the tags of their signatures."""
        queue = {request.image: request for request in reversed(requests)}
        done: set[str] = set()
        while queue:
            image, request = queue.popitem()
            done.add(image)
            self._progress.total = len(done) + len(queue)
            self._progress.begin(image)
            plan = await self._export(request)
            if plan is None or self._is_for_docker:
                continue
            for tag in plan.related_tags:
                related = f"{plan.repository}:{tag}"
                if related not in done:
                    queue[related] = ExportRequest(related, False)
        self._progress.clear()
        if self._summary.images or not self._summary.failed:
            self._destination.finish()
        self._print_summary()
        return self._summary

    @property
    def _is_for_docker(self) -> bool:
        return isinstance(self._destination, TarWriter) and self._destination.for_docker

    async def _export(self, request: ExportRequest) -> ExportPlan | None:
        try:
            plan = await self._client.transfer.plan(
                request.image,
                platforms=() if _is_signature(request.image) else self._platforms,
                cached_only=self._cached_only,
                everything=_is_signature(request.image) and not self._cached_only,
            )
            if self._is_for_docker:
                await self._write_for_docker(plan)
            else:
                await self._write(plan, plan.manifests, plan.blobs)
                self._destination.add(_entries(plan))
        except EngineRefused as error:
            if not request.is_named and error.field == "platform":
                self._summary.left_out[request.image] = []
                self._progress.note(f"Left out: {printable(error.message)}")
            else:
                self._failed(request.image, printable(error.message))
            return None
        except (BlobBrokenOff, ImageUnsuitable) as error:
            self._failed(request.image, error.message)
            return None
        self._summary.images.append(request.image)
        if plan.left_out:
            self._summary.left_out[request.image] = list(plan.left_out)
        return plan

    def _failed(self, image: str, reason: str) -> None:
        self._summary.failed[image] = reason
        self._progress.note(f"Error: {printable(image)} is not exported: {reason}")

    async def _write(
        self,
        plan: ExportPlan,
        manifests: Sequence[PlannedManifest],
        blobs: Sequence[PlannedBlob],
    ) -> None:
        for manifest in manifests:
            digest = Digest.parse(manifest.digest)
            if not digest.matches(manifest.content):
                raise BlobBrokenOff(f"The engine sent other bytes for the manifest {digest}.")
            if not self._destination.has(digest, len(manifest.content)):
                writer = self._destination.begin(digest, len(manifest.content))
                writer.write(manifest.content[writer.offset :])
                writer.commit()
        login_server = plan.source.partition("/")[0]
        for blob in blobs:
            digest = Digest.parse(blob.digest)
            if self._destination.has(digest, blob.size):
                self._summary.present += 1
            elif self._at_other_end.has(blob.digest, login_server):
                self._summary.at_other_end += 1
            else:
                await self._write_blob(plan.repository, digest, blob.size)
                self._summary.blobs += 1
                self._summary.size += blob.size

    async def _write_blob(self, repository: str, digest: Digest, count: int) -> None:
        """Write a blob; what comes with another digest is read once more."""
        for is_last in (False, True):
            writer = self._destination.begin(digest, count)
            try:
                await self._read(repository, digest, count, writer)
                writer.commit()
                return
            except DigestDiffers:
                if is_last:
                    raise BlobBrokenOff(
                        f"The bytes of {digest} that the engine sent have another digest."
                    ) from None
            except BaseException:
                writer.abandon()
                raise

    async def _read(self, repository: str, digest: Digest, count: int, writer: BlobWriter) -> None:
        """Read the rest of a blob; a transfer that breaks off goes on from the byte reached."""
        failures = 0
        while writer.offset < count:
            begun, why = writer.offset, "the connection broke off"
            try:
                async with aclosing(
                    self._client.transfer.blob(
                        repository, str(digest), offset=begun, cached_only=self._cached_only
                    )
                ) as chunks:
                    async for chunk in chunks:
                        if writer.offset + len(chunk) > count:
                            raise BlobBrokenOff(f"More than {count:,} bytes came for {digest}.")
                        writer.write(chunk)
                        self._progress.add(len(chunk))
            except EngineUnreachable as error:
                why = error.message
            if writer.offset > begun:
                failures = 0
            elif (failures := failures + 1) >= ATTEMPTS:
                raise BlobBrokenOff(
                    f"{digest} ended after {begun:,} of {count:,} bytes: {why.rstrip('.')}.",
                    "Run the same command again: it goes on.",
                )
            else:
                await asyncio.sleep(RETRY_PAUSE * 2 ** (failures - 1))

    async def _write_for_docker(self, plan: ExportPlan) -> None:
        assert isinstance(self._destination, TarWriter)
        images = [
            (manifest, parts)
            for manifest in plan.manifests
            if (parts := _docker_parts(manifest)) is not None and not manifest.is_referrer
        ]
        if len(images) != 1:
            names = ", ".join(sorted(manifest.platform or "?" for manifest, _ in images))
            raise ImageUnsuitable(
                f"It has images of {counted(len(images), 'platform')}"
                + (f" ({names})" if names else "")
                + ", and docker load takes one.",
                "Name one: --platform linux/amd64" if images else "Export it to an OCI layout.",
            )
        [(manifest, (config, layers))] = images
        needed = {config, *layers}
        present = {blob.digest for blob in plan.blobs}
        if not needed <= present:
            raise ImageUnsuitable("Some of its layers are not cached: docker load needs all.")
        await self._write(plan, [manifest], [b for b in plan.blobs if b.digest in needed])
        name = f"{plan.source}:{plan.tag}" if plan.tag is not None else None
        self._destination.add_for_docker(
            SavedImage(
                blob_name(Digest.parse(config)),
                None if name is None else [name],
                [blob_name(Digest.parse(layer)) for layer in layers],
            )
        )
        self._destination.add(
            [
                ArchiveEntry(
                    Digest.parse(manifest.digest),
                    len(manifest.content),
                    manifest.media_type,
                    _annotations(plan, manifest.platform, is_part=manifest.digest != plan.digest),
                )
            ]
        )

    def _print_summary(self) -> None:
        summary = self._summary
        skipped = [
            f"{count:,} {where}"
            for count, where in (
                (summary.present, "were there already"),
                (summary.at_other_end, "are at the other site"),
            )
            if count
        ]
        note(
            printable(
                f"{counted(len(summary.images), 'image')} exported to {summary.target}: "
                f"{counted(summary.blobs, 'blob')} ({size(summary.size)}) in "
                f"{duration(self._progress.seconds)}"
                + "".join(f", {text}" for text in skipped)
                + "."
            )
        )
        for image, left_out in summary.left_out.items():
            if left_out:
                note(printable(f"Not cached, and left out of {image}: {', '.join(left_out)}", 500))


class BlobBrokenOff(EntrepotError):
    """A blob of an export did not come whole."""

    code = "BlobBrokenOff"


class ImageUnsuitable(EntrepotError):
    """An image can't be in an archive of this kind."""

    code = "ImageUnsuitable"


class _Inventory:
    """What the other site has: for each blob, the login servers for which it may serve it."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[str, ...] | None] = {}

    @classmethod
    def read(cls, path: Path) -> _Inventory:
        """Read a file that ``entrepot inventory`` wrote; raises `InventoryInvalid`."""
        inventory = cls()
        decoder = msgspec.json.Decoder(InventoryLine)
        try:
            if path.stat().st_size > INVENTORY_LIMIT:
                raise InventoryInvalid(f"{path} has more than {INVENTORY_LIMIT:,} bytes.")
            with path.open("rb") as file:
                number = 0
                while line := file.readline(INVENTORY_LINE):
                    number += 1
                    if line.strip():
                        blob = decoder.decode(line)
                        inventory._blobs[blob.digest] = blob.login_servers
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InventoryInvalid(
                f"{path}, line {number}, is no line of an inventory: "
                f"{printable(str(error), 200).rstrip('.')}.",
                "Write one at the other site with: entrepot inventory --output FILE",
            ) from error
        except OSError as error:
            raise InventoryInvalid(f"{path} can't be read: {error.strerror}.") from error
        return inventory

    def has(self, digest: str, login_server: str) -> bool:
        """Whether the other site can serve a blob in the name of a source registry."""
        login_servers = self._blobs.get(digest, ())
        return login_servers is None or login_server in login_servers


def _path(target: str) -> Path:
    for prefix in ("oci:", "oci-archive:", "docker-archive:"):
        target = target.removeprefix(prefix)
    return Path(target)


@contextmanager
def _open_target(target: str) -> Iterator[ArchiveDestination]:
    path = _path(target)
    writer: LayoutWriter | TarWriter
    if target.startswith("docker-archive:"):
        writer = TarWriter(path, for_docker=True)
    elif target.startswith("oci:") or (
        not target.startswith("oci-archive:") and (target.endswith("/") or path.is_dir())
    ):
        writer = LayoutWriter(path)
    elif target.startswith("oci-archive:") or path.suffix == ".tar":
        writer = TarWriter(path)
    else:
        raise ExportTargetInvalid(
            f"{target} says neither a directory nor a tar file.",
            "Write oci:DIR or DIR/ for an OCI layout, FILE.tar or oci-archive:FILE for one in a "
            "tar file, docker-archive:FILE for docker load.",
        )
    try:
        yield writer
    finally:
        writer.close()


def _is_signature(image: str) -> bool:
    return _SIGNATURE_TAG.fullmatch(image.rpartition(":")[2]) is not None


def _annotations(
    plan: ExportPlan, platform: str | None = None, *, is_part: bool = False
) -> dict[str, str]:
    """The annotations of an image in ``index.json``.

    *is_part* says that it is one image of the index at which the tag points: the source has not
    confirmed that the tag points at it, so that the tag's state says nothing of it.
    """
    annotations = {REPOSITORY: plan.repository, SOURCE: plan.source}
    if platform is not None:
        annotations[PLATFORM] = platform
    if plan.tag is None:
        annotations[REF_NAME] = f"{plan.repository}@{plan.digest}"
        return annotations
    annotations |= {
        REF_NAME: f"{plan.repository}:{plan.tag}",
        CONTAINERD_NAME: f"{plan.source}:{plan.tag}",
        TAG: plan.tag,
    }
    if plan.state is not None and not is_part:
        annotations |= {
            CACHED: time_text(plan.state.cached),
            CHECKED: time_text(plan.state.checked),
        }
        if plan.state.last_pull is not None:
            annotations[LAST_PULL] = time_text(plan.state.last_pull)
        if plan.state.gone:
            annotations[GONE] = "true"
        if plan.state.locked:
            annotations[LOCKED] = "true"
    return annotations


def _entries(plan: ExportPlan) -> list[ArchiveEntry]:
    """The entries of ``index.json`` for an image and its referrers."""
    root = next(manifest for manifest in plan.manifests if manifest.digest == plan.digest)
    entries = [
        ArchiveEntry(
            Digest.parse(root.digest),
            len(root.content),
            root.media_type,
            _annotations(plan, root.platform),
        )
    ]
    entries += [
        ArchiveEntry(
            Digest.parse(manifest.digest),
            len(manifest.content),
            manifest.media_type,
            {REPOSITORY: plan.repository, SOURCE: plan.source},
            manifest.artifact_type,
        )
        for manifest in plan.manifests
        if manifest.is_referrer
    ]
    return entries


class _Part(msgspec.Struct):
    digest: str = ""
    media_type: str = msgspec.field(name="mediaType", default="")


class _Image(msgspec.Struct):
    config: _Part
    layers: list[_Part]


def _docker_parts(manifest: PlannedManifest) -> tuple[str, list[str]] | None:
    """The config and the layers of an image that docker runs; None of anything else."""
    try:
        image = msgspec.json.decode(manifest.content, type=_Image)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_attestation = any("in-toto" in layer.media_type for layer in image.layers)
    if image.config.media_type not in {OCI_CONFIG, DOCKER_CONFIG} or is_attestation:
        return None
    return image.config.digest, [layer.digest for layer in image.layers]
