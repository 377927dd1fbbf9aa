"""Which secret identifiers a client on another machine may use (S13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.core.permitted_identifiers import (
    DEFAULT_OVER_TCP,
    EVERY_IDENTIFIER,
    PermittedIdentifiers,
    SecretKindNotAllowed,
)
from entrepot.core.secret_identifiers import SecretIdentifier

IDENTIFIERS = [
    "env:HUB_USER",
    "file:/run/secrets/hub",
    "docker-config:password",
    "docker-helper:ecr-login/password",
    "command:/usr/bin/id",
]


def is_permitted(permitted: PermittedIdentifiers, text: str) -> bool:
    try:
        permitted.check(SecretIdentifier.parse(text))
    except SecretKindNotAllowed:
        return False
    return True


@pytest.mark.parametrize("text", IDENTIFIERS)
def test_over_tcp_no_program_runs_and_no_file_is_read_by_default(text: str) -> None:
    with pytest.raises(SecretKindNotAllowed, match="secret_kinds") as caught:
        DEFAULT_OVER_TCP.check(SecretIdentifier.parse(text), field="passwordSecretIdentifier")
    assert caught.value.field == "passwordSecretIdentifier"
    assert text not in caught.value.message


@pytest.mark.parametrize("text", [*IDENTIFIERS, "keyring:entrepot/hub"])
def test_the_unix_socket_takes_every_identifier(text: str) -> None:
    assert is_permitted(EVERY_IDENTIFIER, text)


def test_a_permitted_directory_is_left_neither_by_a_link_nor_by_dots(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "out").symlink_to(tmp_path / "other")
    permitted = PermittedIdentifiers(files=tmp_path / "secrets")
    assert is_permitted(permitted, f"file:{tmp_path}/secrets/hub")
    assert not is_permitted(permitted, f"file:{tmp_path}/secrets")
    assert not is_permitted(permitted, f"file:{tmp_path}/secrets/out")
    assert not is_permitted(permitted, f"file:{tmp_path}/secrets/../other")
    assert not is_permitted(permitted, f"file:{tmp_path}/secrets-too/hub")


def test_a_permitted_beginning_of_variables_permits_no_others() -> None:
    permitted = PermittedIdentifiers(variables="ENTREPOT_SECRET_")
    assert is_permitted(permitted, "env:ENTREPOT_SECRET_HUB")
    assert not is_permitted(permitted, "env:ENTREPOT_TOKEN")
    assert not is_permitted(permitted, "env:entrepot_secret_hub")
