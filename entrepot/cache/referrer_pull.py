"""What refers to an image, fetched with it: signatures, attestations, SBOMs.

With all of it cached, a check of the signatures needs no source (F58).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from entrepot.cache.fill import Fill
from entrepot.cache.results import ListAnswer, ManifestAnswer, Origin
from entrepot.cache.source_lists import listed_digests
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.errors import EntrepotError, ManifestUnknown
from entrepot.store.manifests import Descriptor, Manifest

MAX_REFERRERS = 200
"""Manifests that one pull fetches beside its image."""

MAX_DEPTH = 3
"""Referrers of referrers that are followed: the signature of an SBOM is one of two."""

BLOBS_AT_ONCE = 4
"""Blobs of a referrer that are fetched at the same time."""

COSIGN_SUFFIXES = ("sig", "att", "sbom")
"""Ends of the tags under which cosign 2 stores what it signs, attests and attaches:
``sha256-<hex>.sig``. It reads them and no list of referrers."""


class ReferrerPull:
    """Fetches what refers to some manifests of a repository.

    *obtain* gives the fill of a blob, or its size where it is cached.
    """

    def __init__(
        self,
        *,
        manifest: Callable[[Repository, Tag | Digest], Awaitable[ManifestAnswer]],
        referrers: Callable[[Repository, Digest, str | None], Awaitable[ListAnswer]],
        obtain: Callable[[Repository, Descriptor], Awaitable[Fill | int]],
    ) -> None:
        self._manifest = manifest
        self._referrers = referrers
        self._obtain = obtain

    async def complete(self, repository: Repository, subjects: Iterable[Digest]) -> int:
        """Fetch all that refers to *subjects*; returns how many manifests that are.

        Raises an `EntrepotError` for what can't be fetched, after all the rest.
        """
        queue = [(subject, 1) for subject in subjects]
        visited = {subject for subject, _ in queue}
        errors: list[EntrepotError] = []
        count = 0
        while queue:
            subject, depth = queue.pop(0)
            for reference in await self._references(repository, subject, errors):
                if reference in visited:
                    continue
                if count >= MAX_REFERRERS:
                    raise EntrepotError(
                        f"More than {MAX_REFERRERS} manifests refer to {subject}.",
                        "The image is cached. Pull what is missing of them with an OCI client.",
                    )
                try:
                    manifest = (await self._manifest(repository, reference)).manifest
                    await self._complete_blobs(repository, manifest)
                except ManifestUnknown as error:
                    if isinstance(reference, Digest):
                        errors.append(error)
                    continue
                except EntrepotError as error:
                    errors.append(error)
                    continue
                count += 1
                visited.add(manifest.digest)
                if depth < MAX_DEPTH:
                    queue.append((manifest.digest, depth + 1))
        if errors:
            incomplete = EntrepotError(
                f"The image is cached, but not all that refers to it: {errors[0].what}",
                errors[0].hint,
            )
            incomplete.cause = errors[0].cause
            raise incomplete from errors[0]
        return count

    async def _references(
        self, repository: Repository, subject: Digest, errors: list[EntrepotError]
    ) -> list[Tag | Digest]:
        """The digests in the list of referrers, and the tags of cosign."""
        references: list[Tag | Digest] = []
        try:
            answer = await self._referrers(repository, subject, None)
            if answer.origin is Origin.STALE:
                errors.append(EntrepotError(answer.warning or "The list of referrers is old."))
            references.extend(listed_digests(answer.listing.body))
        except EntrepotError as error:
            errors.append(error)
        references.extend(
            Tag(f"{subject.algorithm}-{subject.hex}.{suffix}")
            for suffix in COSIGN_SUFFIXES
            if len(subject.hex) <= 64
        )
        return references

    async def _complete_blobs(self, repository: Repository, manifest: Manifest) -> None:
        waiting = asyncio.Semaphore(BLOBS_AT_ONCE)

        async def complete(blob: Descriptor) -> None:
            async with waiting:
                fill = await self._obtain(repository, blob)
                if isinstance(fill, Fill):
                    await fill.wait()

        results = await asyncio.gather(
            *(complete(blob) for blob in manifest.blobs if not blob.optional),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
