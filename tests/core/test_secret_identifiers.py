"""Secret identifiers."""

from __future__ import annotations

import pytest

from entrepot.core.secret_identifiers import (
    KINDS,
    SecretIdentifier,
    SecretIdentifierInvalid,
    runs_program,
)


@pytest.mark.parametrize(
    "text",
    [
        "env:HUB_USER",
        "env:_x1",
        "file:/run/secrets/hub",
        "file:/a b/c",
        "keyring:entrepot/hub-user",
        "keyring:https://docker.io/me@example.com",
        "https://contoso.vault.azure.net/secrets/hub-token",
        "https://contoso.vault.azure.cn/secrets/hub",
        "https://contoso.vault.usgovcloudapi.net/secrets/hub",
        "docker-config:username",
        "docker-helper:ecr-login/password",
        "command:/usr/bin/pass show 'hub token'",
    ],
)
def test_an_identifier_reads_back_as_it_was_written(text: str) -> None:
    assert str(SecretIdentifier.parse(text)) == text


def test_spelling_that_means_the_same_becomes_the_same_identifier() -> None:
    assert SecretIdentifier.parse(" ENV:HUB ") == SecretIdentifier("env", "HUB")
    assert str(SecretIdentifier.parse("file:///run/secrets/hub")) == "file:/run/secrets/hub"
    assert (
        str(SecretIdentifier.parse("HTTPS://Contoso.Vault.Azure.NET/secrets/Hub/"))
        == "https://contoso.vault.azure.net/secrets/Hub"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "env:",
        "env:1X",
        "env:A B",
        "file:",
        "file:hub",
        "file:~/hub",
        "file://host/hub",
        "file:/",
        "file:/a\0b",
        "hub-password",
        "vault:x",
        "https://example.com/secrets/x",
        "https://contoso.vault.azure.net.example.com/secrets/x",
        "https://contoso.vault.azure.net/",
        "https://contoso.vault.azure.net/keys/x",
        "https://contoso.vault.azure.net/secrets/a_b",
        "https://contoso.vault.azure.net:8443/secrets/x",
        "http://contoso.vault.azure.net/secrets/x",
        "keyring:",
        "keyring:entrepot",
        "keyring:entrepot/",
        "keyring:/hub",
        "docker-config:",
        "docker-config:secret",
        "docker-helper:ecr-login",
        "docker-helper:../x/username",
        "docker-helper:ecr-login/secret",
        "command:",
        "command:hub-token",
        "command:/usr/bin/pass 'unclosed",
        "command:/usr/bin/pass\nshow",
        "command:/" + "x" * 1024,
    ],
)
def test_what_is_not_an_identifier_is_refused_for_its_field(text: str) -> None:
    with pytest.raises(SecretIdentifierInvalid) as caught:
        SecretIdentifier.parse(text, field="passwordSecretIdentifier")
    assert caught.value.field == "passwordSecretIdentifier"
    assert caught.value.code == "SecretIdentifierInvalid"
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "hunter2-hunter2",
        "dckr_pat_hunter2",
        "env:hunter2!",
        "file:hunter2",
        "hunter2:hunter2",
        "https://me:hunter2@contoso.vault.azure.net/x",
        "keyring:hunter2",
        "docker-config:hunter2",
        "command:hunter2",
    ],
)
def test_a_password_in_the_place_of_an_identifier_is_not_repeated(text: str) -> None:
    with pytest.raises(SecretIdentifierInvalid) as caught:
        SecretIdentifier.parse(text)
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(caught.value)


def test_a_version_of_a_secret_in_a_vault_is_refused_because_a_rotated_one_would_not_be_seen() -> (
    None
):
    with pytest.raises(SecretIdentifierInvalid, match="Leave the version out"):
        SecretIdentifier.parse(f"https://contoso.vault.azure.net/secrets/hub/{'0a' * 16}")


def test_what_is_no_identifier_is_answered_with_all_kinds_there_are() -> None:
    with pytest.raises(SecretIdentifierInvalid) as caught:
        SecretIdentifier.parse("somebody")
    for kind in (
        "env:",
        "file:/",
        "keyring:",
        "vault.azure.net/secrets/",
        "docker-config:",
        "docker-helper:",
        "command:/",
    ):
        assert kind in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_only_programs_of_commands_and_helpers_run(kind: str) -> None:
    runs = kind in {"command", "docker-helper"}
    assert SecretIdentifier(kind, "place").runs_program == runs
    assert runs_program(f" {kind.upper()}:anything") == runs
