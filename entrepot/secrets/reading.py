"""Read a secret from the store that its identifier names."""

from __future__ import annotations

import asyncio
import os
import shlex
from typing import Final

from entrepot.core.credentials import CredentialSet
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets.docker import read_from_config, read_from_helper
from entrepot.secrets.file import read_private_file
from entrepot.secrets.keyring import read_keyring
from entrepot.secrets.program import read_command
from entrepot.secrets.secret import Credential, Secret, SecretUnavailable, decoded, usable
from entrepot.secrets.vault import read_vault

DOCKER_KINDS: Final = frozenset({"docker-config", "docker-helper"})
"""Kinds of which docker or its helper gives user name and password together."""


async def read_secret(identifier: SecretIdentifier, login_server: str) -> Secret:
    """Read a secret.

    Raises `SecretUnavailable`, which names the identifier and never the value. *login_server* is
    that of the credential set: docker stores credentials by it.
    """
    place = identifier.place
    match identifier.scheme:
        case "env":
            return _from_environment(identifier)
        case "keyring":
            service, _, user = place.rpartition("/")
            return Secret(
                usable(
                    (await read_keyring(service, user, identifier)).removeprefix("\ufeff"),
                    identifier,
                    "the entry of the keyring",
                )
            )
        case "https":
            vault, _, name = place.removeprefix("//").partition("/secrets/")
            return Secret(await read_vault(vault, name, identifier))
        case "docker-config" | "docker-helper":
            credential = await _docker_credential(identifier, login_server)
            if place.rpartition("/")[2] == "username":
                return credential.username
            return credential.password
        case "command":
            words = shlex.split(place)
            return Secret(
                decoded(
                    await read_command(words, identifier),
                    identifier,
                    f"the first line that {words[0]} prints",
                )
            )
        case _:
            return Secret(
                decoded(
                    await asyncio.to_thread(read_private_file, place, identifier), identifier, place
                )
            )


async def read_credential(credential_set: CredentialSet) -> Credential:
    """Read the user name and the password of a credential set.

    Raises `SecretUnavailable`.
    """
    username, password = credential_set.username, credential_set.password
    login_server = credential_set.login_server
    if _is_pair(username, password):
        # A helper gives both at once, and two answers need not belong together.
        return await _docker_credential(password, login_server)
    credential = Credential(
        username=await read_secret(username, login_server),
        password=await read_secret(password, login_server),
    )
    if ":" in credential.username.reveal():
        # RFC 7617, 2: the first colon ends the user name.
        raise SecretUnavailable(
            f"The user name in {username} can't be used: it holds a colon.",
            "Is it user name and password in one? Keep them apart.",
        )
    return credential


def _is_pair(username: SecretIdentifier, password: SecretIdentifier) -> bool:
    """Whether both come from one credential that docker stores."""
    if username.scheme != password.scheme or username.scheme not in DOCKER_KINDS:
        return False
    username_store, _, username_part = username.place.rpartition("/")
    password_store, _, password_part = password.place.rpartition("/")
    return username_store == password_store and (username_part, password_part) == (
        "username",
        "password",
    )


async def _docker_credential(identifier: SecretIdentifier, login_server: str) -> Credential:
    if identifier.scheme == "docker-config":
        return await read_from_config(login_server, identifier)
    return await read_from_helper(identifier.place.rpartition("/")[0], login_server, identifier)


def _from_environment(identifier: SecretIdentifier) -> Secret:
    # Its bytes: what is not UTF-8 comes through os.environ as characters that can't be sent.
    value = os.environb.get(os.fsencode(identifier.place))
    if value:
        return Secret(decoded(value, identifier, f"the environment variable {identifier.place}"))
    state = "not set" if value is None else "empty"
    raise SecretUnavailable(
        f"The secret {identifier} can't be read: the environment variable {identifier.place} is "
        f"{state} for the engine.",
        "Set it where the engine is started, and start the engine again.",
    )
