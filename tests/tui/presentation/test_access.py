"""Who may read, and whether the way is encrypted, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from entrepot.api.models import MirrorSnapshot
from tests.tui.scripted import NOW, STATUS, changed
from tui.presentation.access import (
    access_line,
    anonymous_line,
    login_command,
    plain_http_remark,
)

DAY = 86_400.0
OPEN = "0.0.0.0:5000"
SIGN_IN = {"can_sign_in": True, "anonymous_may_read": False, "anonymous_may_read_something": False}


@pytest.mark.parametrize(
    ("changes", "text", "tone"),
    [
        ({}, "Anyone on this machine may read, plain HTTP", ""),
        ({"address": "[::1]:5000"}, "Anyone on this machine may read, plain HTTP", ""),
        ({"address": OPEN}, "Anyone who reaches 0.0.0.0:5000 may read, plain HTTP", "warn"),
        (
            {"address": OPEN, "has_tls": True, "certificate_expires": NOW + 90 * DAY},
            "Anyone who reaches 0.0.0.0:5000 may read, TLS until 2026-08-26",
            "",
        ),
        (
            {"address": OPEN, "has_tls": True, **SIGN_IN},
            "Sign-in required, TLS",
            "",
        ),
        (
            {"has_tls": True, "certificate_expires": NOW + 9 * DAY, **SIGN_IN},
            "Sign-in required, TLS until 2026-06-06 (9 d left)",
            "warn",
        ),
        (
            {"has_tls": True, "certificate_expires": NOW - DAY, **SIGN_IN},
            "Sign-in required, TLS with a certificate that expired 2026-05-27",
            "warn",
        ),
        (
            {**SIGN_IN, "anonymous_may_read_something": True},
            "Sign-in required, but for rules open to everyone, plain HTTP",
            "",
        ),
        ({"can_sign_in": True}, "Sign-in only for rules that name readers, plain HTTP", ""),
        (
            {**SIGN_IN, "can_sign_in": False},
            "Sign-in required, but no reader can sign in, plain HTTP",
            "warn",
        ),
        (
            {"anonymous_may_read": False},
            "Anyone on this machine may read some rules; no reader can sign in, plain HTTP",
            "",
        ),
    ],
)
@pytest.mark.usefixtures("fixed_time")
def test_one_line_says_who_may_read_and_how(changes: dict[str, Any], text: str, tone: str) -> None:
    line = access_line(changed(STATUS, **changes), NOW)
    assert (line.text, line.tone) == (text, tone)


@pytest.mark.usefixtures("fixed_time")
def test_a_mirror_that_is_more_open_than_the_registry_is_named() -> None:
    mirror = MirrorSnapshot(namespace="docker.io", address="0.0.0.0:5002")
    plain = access_line(changed(STATUS, has_tls=True, mirrors=(mirror,)), NOW)
    assert plain.text == (
        "Anyone who reaches 0.0.0.0:5002 may read, TLS, plain HTTP at 0.0.0.0:5002"
    )
    assert plain.tone == "warn"
    # It is on the registry's own listener.
    by_name = changed(mirror, address="hub.cache.example:5000")
    assert "on this machine" in access_line(changed(STATUS, mirrors=(by_name,)), NOW).text


@pytest.mark.parametrize(
    ("rules", "anonymous", "text"),
    [
        (12, 0, "No rule can be read without sign-in, plain HTTP"),
        (12, 3, "3 of 12 rules can be read without sign-in, plain HTTP"),
        (12, 12, "All 12 rules can be read without sign-in, plain HTTP"),
        (1, 1, "1 of 1 rule can be read without sign-in, plain HTTP"),
    ],
)
def test_the_screen_of_readers_counts_what_is_open(rules: int, anonymous: int, text: str) -> None:
    assert anonymous_line(changed(STATUS, rules=rules), anonymous, NOW).text == text


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("127.0.0.1:5000", "docker login -u ci 127.0.0.1:5000"),
        ("cache.example:443", "docker login -u ci cache.example:443"),
        ("0.0.0.0:5000", "docker login -u ci HOST:5000"),
        ("[::]:5000", "docker login -u ci HOST:5000"),
    ],
)
def test_no_client_is_told_to_sign_in_at_all_addresses(address: str, command: str) -> None:
    assert login_command("ci", address) == command


def test_beyond_loopback_a_token_over_plain_http_can_be_read_on_the_way() -> None:
    assert "can be read" in plain_http_remark("0.0.0.0:5000")
    assert "can be read" not in plain_http_remark("127.0.0.1:5000")
