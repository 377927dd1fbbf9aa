"""Parsers for what a source sends. `tests.scenarios.sources.test_patterns` shows their bounds."""

from __future__ import annotations

import codecs

import msgspec
import pytest

from entrepot.source.decoding import (
    LINK_LENGTH,
    MEDIA_TYPE_LENGTH,
    Undecodable,
    decode,
    next_link,
    parse_content_range,
    parse_media_type,
    parse_number,
    parse_unsatisfied_range,
)


class Document(msgspec.Struct):
    names: list[str] = []


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_json_is_decoded_with_and_without_a_byte_order_mark(mark: bytes) -> None:
    assert decode(mark + b'{"names": ["a"]}', Document) == Document(["a"])


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b'{"names": 1}', b"[" * 100_000, b'{"names": ["\xff"]}']
)
def test_what_is_not_of_the_requested_shape_is_undecodable(content: bytes) -> None:
    with pytest.raises(Undecodable) as error:
        decode(content, Document)
    assert error.value.__context__ is None, "a remembered error keeps no other one"


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("42", 42), ("", None), ("-1", None), ("1.0", None), ("9" * 16, None), ("٣", None)],
)
def test_a_number_has_up_to_fifteen_ascii_digits(text: str, number: int | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "media_type"),
    [
        ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.index.v1+json"),
        ("Text/HTML; charset=utf-8", "text/html"),
        ("application", None),
        ("a/b c", None),
        ("application/" + "x" * MEDIA_TYPE_LENGTH, None),
    ],
)
def test_a_media_type_is_that_of_rfc_6838_without_parameters(
    text: str, media_type: str | None
) -> None:
    assert parse_media_type(text) == media_type


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("bytes 0-9/100", (0, 9, 100)),
        (" bytes 5-9/* ", (5, 9, None)),
        ("bytes */100", None),
        ("items 0-9/100", None),
        ("bytes 0-9", None),
    ],
)
def test_a_content_range_names_first_last_and_size(
    text: str, parsed: tuple[int, int, int | None] | None
) -> None:
    assert parse_content_range(text) == parsed


@pytest.mark.parametrize(
    ("text", "size"), [("bytes */100", 100), ("bytes 0-9/100", None), ("bytes */*", None)]
)
def test_an_unsatisfied_range_names_the_size(text: str, size: int | None) -> None:
    assert parse_unsatisfied_range(text) == size


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ('</v2/a/tags/list?last=x>; rel="next"', "/v2/a/tags/list?last=x"),
        ("</first>; rel=first, </second>; rel=next", "/second"),
        ('</both>; rel="prev next"', "/both"),
        ("</other>; rel=prev", None),
        ("</open", None),
        ("", None),
        (" " * LINK_LENGTH + "</late>; rel=next", None),
    ],
)
def test_the_next_link_is_found_among_all_links(text: str, target: str | None) -> None:
    assert next_link(text) == target
