"""What media types a client accepts."""

from __future__ import annotations

import pytest

from entrepot.core.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from entrepot.httpd.accept import MAX_HEADER, Accept, AcceptInvalid


@pytest.mark.parametrize(
    "header",
    [None, b"", b"  ", b"*/*", f"{DOCKER_MANIFEST}, */*".encode(), b"text/html, */*;q=0.8"],
)
def test_without_a_list_or_with_a_star_everything_is_accepted(header: bytes | None) -> None:
    accept = Accept.parse(header)
    assert accept.accepts_everything
    assert accept.accepts(OCI_INDEX)


def test_a_list_accepts_what_it_names_without_regard_to_case_and_parameters() -> None:
    accept = Accept.parse(f"{OCI_MANIFEST.upper()}; charset=utf-8;q=0.5,{DOCKER_MANIFEST}".encode())
    assert accept.accepts(OCI_MANIFEST)
    assert accept.accepts(DOCKER_MANIFEST)
    assert not accept.accepts(OCI_INDEX)


def test_a_quality_of_zero_is_not_accepted() -> None:
    assert not Accept.parse(f"{OCI_INDEX};q=0, {OCI_MANIFEST}".encode()).accepts(OCI_INDEX)


def test_a_star_subtype_accepts_the_whole_type() -> None:
    assert Accept.parse(b"application/*").accepts(OCI_INDEX)


@pytest.mark.parametrize(
    "header",
    [b"application", b"a/b/c", b"/json", b"\xff/\xff", b"*; q=.2", b"@", b'"a/b"', b",,;;,"],
)
def test_f70_what_is_no_media_type_is_skipped_and_nothing_left_is_no_preference(
    header: bytes,
) -> None:
    assert Accept.parse(header).accepts_everything
    accept = Accept.parse(header + b", " + OCI_MANIFEST.encode())
    assert accept.media_types == {OCI_MANIFEST}


@pytest.mark.parametrize(
    "parameters",
    [
        b";;q=x",
        b";q=2",
        b"; q=0.12345",
        b"; q=.2",
        b"; q=-1",
        b"; charset",
        b'; a="x,y;z"',
        b"; q=0.001",
    ],
)
def test_f70_a_parameter_that_can_not_be_read_is_skipped(parameters: bytes) -> None:
    accept = Accept.parse(OCI_MANIFEST.encode() + parameters)
    assert accept.media_types == {OCI_MANIFEST}


@pytest.mark.parametrize(
    "quality", [b";q=0", b"; Q = 0.000", b";charset=utf-8; q=0.", b'; a="q=1"; q=0']
)
def test_a_quality_of_zero_is_read_wherever_it_stands(quality: bytes) -> None:
    assert Accept.parse(OCI_INDEX.encode() + quality + b", text/plain").media_types == {
        "text/plain"
    }


def test_f70_java_s_own_header_is_understood() -> None:
    assert Accept.parse(b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2").accepts_everything


def test_s01_a_header_that_is_too_long_is_refused() -> None:
    with pytest.raises(AcceptInvalid, match=r"8,193 bytes") as refusal:
        Accept.parse(b"a" * (MAX_HEADER + 1))
    assert refusal.value.oci_status == 400
