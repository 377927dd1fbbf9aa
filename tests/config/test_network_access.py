"""Listening beyond loopback has to be meant."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.config.mirror_settings import Mirror
from entrepot.config.network_access import access_problems, check_network_access
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings, SettingsInvalid, TlsFiles

TLS = TlsFiles(Path("server.crt"), Path("server.key"))
OPEN = Settings(listen="0.0.0.0:5000")


@pytest.mark.parametrize("listen", ["127.0.0.1:5000", "[::1]:5000", "localhost:5000"])
def test_loopback_is_never_refused(listen: str) -> None:
    check_network_access(Settings(listen=listen))
    assert list(access_problems(Settings(listen=listen))) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            OPEN,
            "0.0.0.0:5000 over plain HTTP and without sign-in, and nothing says that this is "
            "meant. If it is, write at the top of settings.toml:\n"
            "    allow_plain_http = true\n    allow_anonymous = true\n"
            "or start with:\n    entrepot serve --allow-plain-http --allow-anonymous\n",
        ),
        (
            replace(OPEN, tls=TLS),
            "0.0.0.0:5000 without sign-in, and nothing says that this is meant. If it is, write at "
            "the top of settings.toml:\n    allow_anonymous = true\n"
            "or start with:\n    entrepot serve --allow-anonymous\n",
        ),
        (replace(OPEN, allow_anonymous=True), "over plain HTTP, and nothing says"),
        (replace(OPEN, allow_plain_http=True), "without sign-in, and"),
        (
            Settings(mirrors=(Mirror("docker.io", "[::]:5002"),)),
            "could reach the registry on [::]:5002 over plain HTTP and without sign-in",
        ),
    ],
)
def test_other_machines_are_let_in_only_when_that_is_said(settings: Settings, says: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        check_network_access(settings)
    assert says in caught.value.message


@pytest.mark.parametrize(
    "settings",
    [
        replace(OPEN, allow_plain_http=True, allow_anonymous=True),
        replace(OPEN, tls=TLS, allow_anonymous=True),
        Settings(
            tls=TLS,
            allow_anonymous=True,
            mirrors=(Mirror("docker.io", "0.0.0.0:5002", plain_http=True),),
        ),
    ],
)
def test_what_is_said_is_enough(settings: Settings) -> None:
    check_network_access(settings)


def test_what_is_open_is_named_all_the_same() -> None:
    problems = [
        what
        for what, _ in access_problems(replace(OPEN, allow_plain_http=True, allow_anonymous=True))
    ]
    assert "0.0.0.0:5000 over plain HTTP" in problems[0]
    assert "without signing in" in problems[1]
    assert len(list(access_problems(replace(OPEN, tls=TLS)))) == 1


@pytest.mark.parametrize(
    "settings",
    [
        replace(OPEN, tls=TLS, readers=ReaderSettings()),
        # Personal tokens alone.
        replace(OPEN, tls=TLS, allow_anonymous=False),
    ],
)
def test_readers_who_sign_in_make_an_open_address_one_that_is_meant(settings: Settings) -> None:
    check_network_access(settings)
    assert list(access_problems(settings)) == []
    [(what, _)] = access_problems(replace(settings, readers=ReaderSettings(), allow_anonymous=True))
    assert "may pull what has no readers without signing in" in what


def test_the_lines_for_the_settings_can_be_copied() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        check_network_access(OPEN, "entrepot serve --listen 0.0.0.0:5000")
    lines = caught.value.message.splitlines()
    command = "    entrepot serve --listen 0.0.0.0:5000 --allow-plain-http --allow-anonymous"
    assert command in lines
    copied = "\n".join(line for line in lines if line.startswith("    ") and line != command)
    assert tomllib.loads(copied) == {"allow_plain_http": True, "allow_anonymous": True}
