"""What media types a client accepts."""

from __future__ import annotations

import pytest

from entrepot.server.accept import Accept, AcceptInvalid
from entrepot.store.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST


@pytest.mark.parametrize("header", [None, b"", b"  ", b"*/*", f"{DOCKER_MANIFEST}, */*".encode(), b"text/html, */*;q=0.8"])
def test_without_a_list_or_with_a_star_everything_is_accepted(header: bytes | None) -> None:
    accept = Accept.parse(header)
    assert accept.takes_everything
    assert accept.takes(OCI_INDEX)


def test_a_list_accepts_what_it_names_without_regard_to_case_and_parameters() -> None:
    accept = Accept.parse(f"{OCI_MANIFEST.upper()}; charset=utf-8;q=0.5,{DOCKER_MANIFEST}".encode())
    assert accept.takes(OCI_MANIFEST)
    assert accept.takes(DOCKER_MANIFEST)
    assert not accept.takes(OCI_INDEX)


def test_a_quality_of_zero_is_not_accepted() -> None:
    assert not Accept.parse(f"{OCI_INDEX};q=0, {OCI_MANIFEST}".encode()).takes(OCI_INDEX)


def test_a_star_subtype_accepts_the_whole_type() -> None:
    assert Accept.parse(b"application/*").takes(OCI_INDEX)


@pytest.mark.parametrize(
    "header", [b"application", b"a/b/c", b"application/json;;q=x", b"application/json;q=2", b"/json", b"application/json; q=0.12345", b"\xff/\xff"]
)
def test_what_is_no_media_type_is_refused(header: bytes) -> None:
    with pytest.raises(AcceptInvalid, match="not a media type") as refusal:
        Accept.parse(header)
    assert refusal.value.oci_status == 400
