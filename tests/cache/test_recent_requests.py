"""What is remembered of the requests to a repository, and how much of it at the most."""

from __future__ import annotations

from entrepot.cache.bounded import Tally
from entrepot.cache.recent_requests import DIGESTS, RECENT_BLOBS, RESOLVED_TAGS, RecentRequests
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Tag
from entrepot.store.manifests import Manifest, ReferenceKind
from tests.cache.test_index import descriptor, digest, image_of


def test_s31_what_one_repository_makes_us_remember_is_bounded() -> None:
    requests = RecentRequests(Tally())
    for number in range(5_000):
        requests.source_confirmed(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        requests.record_request(image_of(number, f"a{number}", f"b{number}"), Tag(f"t{number}"))
    children = tuple(
        descriptor(number, ReferenceKind.MANIFEST, "linux/amd64") for number in range(5_000)
    )
    requests.record_request(Manifest(b"{}", OCI_INDEX, digest("index"), children), Tag("index"))
    assert len(requests.resolved) == RESOLVED_TAGS
    assert [len(each) for each in (requests.tag_of, requests.platform_of)] == [DIGESTS] * 2
    assert sum(1 + len(blobs) for blobs in requests._recent.values()) <= RECENT_BLOBS
    # What was asked for last is what is still known.
    assert requests.latest_image_with(digest("b4999")) == digest(4999)
    assert requests.latest_image_with(digest("b0")) is None
    assert requests.tag_of[digest(4999)] == "index"


def test_s31_the_bytes_of_images_that_were_asked_for_are_not_kept_with_their_blobs() -> None:
    """A hundred images of eight megabytes for each repository would be."""
    requests = RecentRequests(Tally())
    manifest = image_of("big", "layer")
    requests.record_request(manifest, None)
    assert requests.latest_image_with(digest("layer")) == manifest.digest
    assert list(requests._recent.values()) == [frozenset({digest("layer")})]


def test_the_images_of_an_index_have_its_tag_and_the_platforms_that_it_states() -> None:
    requests = RecentRequests(Tally())
    child = descriptor("image", ReferenceKind.MANIFEST, "linux/amd64")
    requests.record_request(Manifest(b"{}", OCI_INDEX, digest("index"), (child,)), Tag("1"))
    assert requests.tag_of[digest("image")] == requests.tag_of[digest("index")] == Tag("1")
    assert requests.platform_of[digest("image")] == "linux/amd64"


def test_a_layer_of_several_images_belongs_to_the_one_requested_last() -> None:
    requests = RecentRequests(Tally())
    first, second = image_of("first", "layer"), image_of("second", "layer")
    for manifest in (first, second, first):
        requests.record_request(manifest, None)
    assert requests.latest_image_with(digest("layer")) == first.digest
    assert requests.latest_image_with(digest("other")) is None


def test_the_tags_of_a_digest_are_those_that_the_source_confirmed_last() -> None:
    """containerd sends a HEAD for a tag and then a GET for the digest."""
    requests = RecentRequests(Tally())
    for tag, name in (("1", "old"), ("2", "old"), ("1", "new")):
        requests.source_confirmed(Tag(tag), digest(name), OCI_MANIFEST, 5, 1.0)
    assert requests.tags_resolved_to(digest("old")) == [Tag("2")]
    assert requests.tags_resolved_to(digest("new")) == [Tag("1")]
