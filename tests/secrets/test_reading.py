"""Reading secrets from the stores that their identifiers name."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SECRET_LENGTH, SecretUnavailable, read_credential, read_secret


def private_file(path: Path, content: bytes) -> SecretIdentifier:
    path.write_bytes(content)
    path.chmod(0o600)
    return SecretIdentifier.parse(f"file:{path}")


async def test_a_secret_is_read_from_the_environment_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identifier = SecretIdentifier.parse("env:ENTREPOT_TEST_SECRET")
    monkeypatch.setenv("ENTREPOT_TEST_SECRET", "one")
    assert (await read_secret(identifier, "docker.io")).reveal() == "one"
    monkeypatch.setenv("ENTREPOT_TEST_SECRET", "two")
    assert (await read_secret(identifier, "docker.io")).reveal() == "two"


@pytest.mark.parametrize(("value", "why"), [(None, "not set"), ("", "empty")])
async def test_a_variable_without_a_value_is_said_to_be_so(
    monkeypatch: pytest.MonkeyPatch, value: str | None, why: str
) -> None:
    monkeypatch.delenv("ENTREPOT_TEST_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("ENTREPOT_TEST_SECRET", value)
    with pytest.raises(SecretUnavailable, match=f"ENTREPOT_TEST_SECRET is {why}") as caught:
        await read_secret(SecretIdentifier.parse("env:ENTREPOT_TEST_SECRET"), "docker.io")
    assert caught.value.code == "SecretUnavailable"


@pytest.mark.parametrize("content", [b"pa ss", b"pa ss\n", b"pa ss\r\n", b"\xef\xbb\xbfpa ss\r\n"])
async def test_a_secret_is_read_from_a_file_without_its_line_end(
    tmp_path: Path, content: bytes
) -> None:
    assert (
        await read_secret(private_file(tmp_path / "secret", content), "docker.io")
    ).reveal() == "pa ss"


async def test_a_secret_of_many_lines_keeps_those_inside(tmp_path: Path) -> None:
    assert (
        await read_secret(private_file(tmp_path / "key.json", b'{\n"a": 1\n}\n'), "docker.io")
    ).reveal() == '{\n"a": 1\n}'


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
async def test_a_file_that_others_may_use_is_not_read(open_directory: Path, mode: int) -> None:
    identifier = private_file(open_directory / "secret", b"hunter2")
    (open_directory / "secret").chmod(mode)
    with pytest.raises(SecretUnavailable, match="chmod 600") as caught:
        await read_secret(identifier, "docker.io")
    assert "hunter2" not in caught.value.message
    assert f"{mode:04o}" in caught.value.message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"h\xfcnter2", r"perhaps Latin-1.*Save it as plain UTF-8 text"),
        ("hunter2".encode("utf-16"), "not UTF-8 text but UTF-16"),
        (b"hunter2\0\0\0", "holds a zero byte"),
        (b"x" * (SECRET_LENGTH + 1), "longer than"),
    ],
)
async def test_a_file_without_a_usable_secret_is_said_to_be_so(
    tmp_path: Path, content: bytes, why: str
) -> None:
    with pytest.raises(SecretUnavailable, match=why):
        await read_secret(private_file(tmp_path / "secret", content), "docker.io")


async def test_blanks_around_a_secret_belong_to_it(tmp_path: Path) -> None:
    assert (
        await read_secret(private_file(tmp_path / "secret", b" pa ss \n"), "docker.io")
    ).reveal() == " pa ss "


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        (b"\xef\xbb\xbfp\xc3\xa4ss", "päss"),
        (b"hunter2\r", "hunter2"),
        (b"p\xe4ss", None),
        (b"\xef\xbb\xbf\n", None),
    ],
)
async def test_a_variable_is_text_as_a_file_is(
    value: bytes, secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F87: a file of variables with CRLF or a byte order mark; what is not UTF-8 could not be sent."""
    monkeypatch.setitem(os.environb, b"ENTREPOT_TEST_SECRET", value)
    identifier = SecretIdentifier.parse("env:ENTREPOT_TEST_SECRET")
    if secret is not None:
        assert (await read_secret(identifier, "docker.io")).reveal() == secret
        return
    with pytest.raises(SecretUnavailable, match=r"not UTF-8 text but perhaps Latin-1|is empty"):
        await read_secret(identifier, "docker.io")


async def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="No such file"):
        await read_secret(SecretIdentifier.parse(f"file:{tmp_path}/none"), "docker.io")


async def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SecretUnavailable, match="is not a file"):
            await read_secret(SecretIdentifier.parse(f"file:{path}"), "docker.io")


async def test_a_credential_is_the_user_name_and_the_password_of_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTREPOT_TEST_USER", "me")
    password = private_file(tmp_path / "secret", b"hunter2\n")
    credential_set = CredentialSet(
        "hub-login",
        "docker.io",
        SecretIdentifier("env", "ENTREPOT_TEST_USER"),
        password,
        datetime.now(UTC),
    )
    credential = await read_credential(credential_set)
    assert (credential.username.reveal(), credential.password.reveal()) == ("me", "hunter2")
    assert "hunter2" not in repr(credential)
