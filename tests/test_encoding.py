"""F87: text as editors and tools of other systems write it."""

from __future__ import annotations

import pytest

from entrepot.encoding import NotUtf8, decode_text, first_json_value


@pytest.mark.parametrize("content", [b"p\xc3\xa4ss\n", b"\xef\xbb\xbfp\xc3\xa4ss\n"])
def test_utf_8_is_read_with_a_byte_order_mark_and_without(content: bytes) -> None:
    assert decode_text(content) == "päss\n"


@pytest.mark.parametrize("content", [b"", b"a", b"\xef\xbb\xbf", b"a\0", b"\0\0\0\0", b"ab\0\0"])
def test_short_text_is_not_taken_for_another_encoding(content: bytes) -> None:
    assert decode_text(content) == content.removeprefix(b"\xef\xbb\xbf").decode()


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("latin-1", "perhaps Latin-1"),
        ("cp1252", "Latin-1"),
    ],
)
def test_another_encoding_is_named_and_the_text_is_not_repeated(encoding: str, name: str) -> None:
    with pytest.raises(NotUtf8) as caught:
        decode_text("hunter2 ä".encode(encoding))
    assert name in str(caught.value)
    assert caught.value.sentence.endswith(": save it as UTF-8.")
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize(("content", "offset"), [(b"ab\xff", 2), (b"\xef\xbb\xbfab\xff", 5)])
def test_the_first_byte_that_is_not_utf_8_is_located(content: bytes, offset: int) -> None:
    with pytest.raises(NotUtf8) as caught:
        decode_text(content)
    assert (caught.value.offset, caught.value.encoding) == (offset, None)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n'),
        (b'{"a": 1}\0\0', b'{"a": 1}'),
        (rb'{"a": "\ud800"}', rb'{"a": "\ufffd"}'),
        (rb'{"a": "\ud83d\ude00 \\ud800"}', rb'{"a": "\ud83d\ude00 \\ud800"}'),
        (b"<html>", b"<html>"),
    ],
)
def test_the_first_json_value_is_read_as_go_reads_it(content: bytes, value: bytes) -> None:
    """F82: some registries send a byte order mark, or bytes behind the document."""
    assert first_json_value(content) == value
