"""Secrets in memory."""

from __future__ import annotations

import pickle

import pytest

from entrepot.secrets import SECRET_LENGTH, Secret, SecretUnavailable
from entrepot.secrets.secret import decoded, usable


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {secret!s:>20}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_secrets_of_the_same_value_are_equal() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_a_secret_is_text_without_byte_order_mark_and_line_end() -> None:
    assert decoded(b"\xef\xbb\xbfhunter2\r\n", "env:X", "the variable X") == "hunter2"


def test_a_secret_that_is_too_long_is_not_read() -> None:
    assert decoded(b"x" * SECRET_LENGTH, "env:X", "the variable X") == "x" * SECRET_LENGTH
    with pytest.raises(SecretUnavailable, match="the variable X is longer than 65,536 bytes"):
        decoded(b"x" * (SECRET_LENGTH + 1), "env:X", "the variable X")


@pytest.mark.parametrize(("value", "reason"), [("", "is empty"), ("a\0b", "zero byte")])
def test_a_value_that_no_sign_in_can_send_is_refused(value: str, reason: str) -> None:
    with pytest.raises(SecretUnavailable, match=reason) as caught:
        usable(value, "env:X", "the variable X")
    assert "env:X" in caught.value.what


def test_an_empty_text_is_a_secret_only_where_that_is_allowed() -> None:
    assert decoded(b"\n", "env:X", "the variable X", may_be_empty=True) == ""
    with pytest.raises(SecretUnavailable, match="is empty"):
        decoded(b"\n", "env:X", "the variable X")
