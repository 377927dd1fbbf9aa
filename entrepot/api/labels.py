"""The words for a fact of the API, the same in the CLI and the dashboard.

The dashboard adds a tone to a word; nothing else of the wording differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from entrepot.api.models import (
    CredentialSetSnapshot,
    EvictedImage,
    Finding,
    ImageBlob,
    RefreshedTag,
    RuleMatch,
    RuleSnapshot,
    TagDetail,
    TagImage,
    TagSnapshot,
)
from entrepot.core.artifact_kinds import IMAGE
from entrepot.core.states import CachedState, HealthStatus, ImportOutcome
from entrepot.formatting import counted, duration, short_digest, since

CACHED_LABELS: Final = {
    CachedState.CACHED: "cached",
    CachedState.PARTLY_CACHED: "partly cached",
    CachedState.NOT_CACHED: "not cached",
}

IMPORT_LABELS: Final = {
    ImportOutcome.CREATE: "create",
    ImportOutcome.UNCHANGED: "unchanged",
    ImportOutcome.CONFLICT: "conflict",
}

LOCKED: Final = "yes: neither evicted nor deleted"
"""What a lock does, beside the label *Locked*."""

EXAMPLES: Final = 2
"""Images that are named as examples where several share a blob."""


def check_name(finding: Finding) -> str:
    """The name of a check of ``entrepot doctor``; JSON keeps ``allowance`` for the rate limit."""
    return "rate limit" if finding.check == "allowance" else finding.check


def tag_state(tag: TagSnapshot, now: float) -> str:
    """Whether the digest of a tag is trusted, and whether the tag is locked."""
    if tag.gone:
        state = "gone at source"
    elif tag.fresh_until is None:
        state = "never expires"
    elif tag.fresh_until > now:
        state = f"fresh, {duration(tag.fresh_until - now)} left"
    else:
        state = f"stale, checked {since(tag.checked, now)}"
    return f"locked, {state}" if tag.locked else state


def tag_lifetime(rule: RuleSnapshot) -> str:
    """The tag lifetime of a rule, and whether it is the default."""
    if rule.freshness:
        return rule.freshness_in_force
    return f"{rule.freshness_in_force} (default)"


def credential_set_health(credential_set: CredentialSetSnapshot) -> str:
    """The health of a credential set."""
    if credential_set.health is HealthStatus.UNKNOWN and not credential_set.checked:
        return "not checked"
    return credential_set.health.value.lower()


def match_state(match: RuleMatch) -> str:
    """How much of a matched image, or of its repository, is cached."""
    if match.tag is None and match.digest is None:
        is_cached = match.cached_state is not CachedState.NOT_CACHED
        return "repository cached" if is_cached else "repository not cached"
    return CACHED_LABELS[match.cached_state]


def image_name(image: TagImage, detail: TagDetail) -> str:
    """The platform of an image, or the image about which it is an attestation."""
    if image.attests is None:
        return image.platform or "no platform"
    platform = next(
        (other.platform for other in detail.images if other.digest == image.attests), None
    )
    return f"attestation of {platform or short_digest(image.attests) or 'an unnamed image'}"


def tag_platforms(platforms: Iterable[str], kind: str) -> str:
    """The platforms behind a tag; for what is no image, what it is."""
    return " ".join(platforms) if kind == IMAGE else kind


def blob_cached(blob: ImageBlob) -> str:
    """Whether a blob is cached."""
    return "cached" if blob.cached else "not cached"


def is_shared(blob: ImageBlob) -> bool:
    """Whether other images or repositories have the same blob."""
    return bool(blob.shared_images or blob.shared_repositories)


def sharers(blob: ImageBlob) -> str:
    """How many images or repositories share a blob, with examples."""
    if not is_shared(blob):
        return "not shared"
    others = (
        counted(blob.shared_images, "image")
        if blob.shared_images
        else counted(blob.shared_repositories, "repository", "repositories")
    )
    examples = ", ".join(blob.shared_with[:EXAMPLES])
    more = len(blob.shared_with) - EXAMPLES
    if more > 0:
        examples += f" and {more:,} more"
    return f"{others}: {examples}" if examples else others


def evicted_image_name(image: EvictedImage) -> str:
    """The name under which an evicted image was pulled."""
    if not image.tags:
        return f"{image.repository}@{image.digest[:19]}"
    more = f" and {len(image.tags) - 1:,} more" if len(image.tags) > 1 else ""
    return f"{image.repository}:{image.tags[0]}{more}"


def refreshed_tag_text(refreshed: RefreshedTag, *, short: bool) -> str:
    """The source registry's answer about a tag, as text.

    With *short*, digests have 12 characters.
    """

    def digest_text(digest: str) -> str:
        return short_digest(digest) if short else digest

    name = f"{refreshed.repository}:{refreshed.tag}"
    login_server = refreshed.source_repository.partition("/")[0] or "its source registry"
    digest = digest_text(refreshed.digest)
    if refreshed.problem is not None:
        return f"{name} stays at {digest}: {refreshed.problem}"
    if refreshed.gone:
        return f"{name} is gone at {login_server}. What is cached of it stays: {digest}."
    if refreshed.before is None:
        return f"{name} is new here: it points to {digest}."
    if refreshed.moved:
        return f"{name} has moved from {digest_text(refreshed.before)} to {digest}."
    return f"{name} is unchanged at {login_server}: {digest}."
