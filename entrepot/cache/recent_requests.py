"""What clients requested lately of a repository, and what its source answered to HEADs.

It is in memory only, within bounds that no client can exceed (S31).
"""

from __future__ import annotations

from dataclasses import dataclass

from entrepot.cache.bounded import BoundedMap, Tally
from entrepot.core.reference import Digest, Tag
from entrepot.store.manifests import Manifest

RESOLVED_TAGS = 500
"""Uncached tags of one repository whose digest at the source is remembered."""

DIGESTS = 1_000
"""Digests of one repository whose tag, or whose platform, in the last request is remembered."""

RECENT_BLOBS = 2_000
"""Blobs of recently requested images of one repository that are remembered, to know for which image
a client requests a layer."""


@dataclass(frozen=True, slots=True)
class ResolvedTag:
    """The source's answer to a HEAD on a tag.

    *size* is in bytes, *time* in seconds of a monotonic clock.
    """

    digest: Digest
    media_type: str
    size: int
    time: float


class RecentRequests:
    """The recent requests to one repository; *tally* counts those of all repositories together."""

    __slots__ = ("_recent", "platform_of", "resolved", "tag_of")

    def __init__(self, tally: Tally) -> None:
        self.resolved: BoundedMap[Tag | Digest, ResolvedTag] = BoundedMap(RESOLVED_TAGS, tally)
        self.tag_of: BoundedMap[Digest, Tag] = BoundedMap(DIGESTS, tally)
        """The tag of the last request for a manifest, or for the index above it."""
        self.platform_of: BoundedMap[Digest, str] = BoundedMap(DIGESTS, tally)
        self._recent: BoundedMap[Digest, frozenset[Digest]] = BoundedMap(
            RECENT_BLOBS, tally, lambda blobs: 1 + len(blobs)
        )
        """The blobs of recently requested images. Not their manifests: some have megabytes."""

    def record_request(self, manifest: Manifest, tag: Tag | None) -> None:
        """Record that a client got a manifest, by *tag* or by its digest."""
        if tag is not None:
            self.tag_of.note(manifest.digest, tag)
        for child in manifest.children:
            if tag is not None:
                self.tag_of.note(child.digest, tag)
            if child.platform is not None:
                self.platform_of.note(child.digest, child.platform)
        if not manifest.is_index:
            blobs = self._recent.get(manifest.digest)
            if blobs is None or next(reversed(self._recent)) != manifest.digest:
                self._recent[manifest.digest] = (
                    frozenset(blob.digest for blob in manifest.blobs) if blobs is None else blobs
                )

    def latest_image_with(self, blob: Digest) -> Digest | None:
        """The manifest of the last requested image that has this blob."""
        return next(
            (digest for digest in reversed(self._recent) if blob in self._recent[digest]), None
        )

    def release(self) -> None:
        """Stop counting in the common tally: these requests are dropped."""
        for requests in (self.resolved, self.tag_of, self.platform_of, self._recent):
            requests.release()

    def source_confirmed(
        self, tag: Tag, digest: Digest, media_type: str, size: int, now: float
    ) -> None:
        """Record where a tag points by what the source answered to a HEAD."""
        self.resolved[tag] = ResolvedTag(digest, media_type, size, now)
        self.tag_of[digest] = tag

    def tags_resolved_to(self, digest: Digest) -> list[Tag]:
        """The tags that point at *digest* by the source's answers to HEAD.

        containerd sends a HEAD for a tag and then a GET for the digest.
        """
        return [
            tag
            for tag, resolved in self.resolved.items()
            if resolved.digest == digest and not isinstance(tag, Digest)
        ]
