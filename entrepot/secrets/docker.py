"""Credentials that docker keeps: with its credential helpers, or in its ``config.json``.

A helper is a program ``docker-credential-NAME``; ``get`` reads the server's address on standard input and prints ``{"ServerURL", "Username", "Secret"}``
(README of docker/docker-credential-helpers, "Development"). ``config.json`` names the helper of a server in ``credHelpers``, that of all others in
``credsStore``, and else holds ``user:password`` in base64 under ``auths``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from entrepot.secrets.file import read_private_file
from entrepot.secrets.program import run
from entrepot.secrets.secret import Credential, Secret, SecretUnavailable

_HUB = "https://index.docker.io/v1/"
"""The address under which docker keeps what belongs to Docker Hub."""

_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

_IDENTITY_TOKEN = "<token>"
"""The user name of an identity token, which is no password (docker/docker-credential-helpers, README)."""


Value = TypeVar("Value")


class _Given(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class _Auth(msgspec.Struct, rename="lower"):
    auth: str = ""
    identitytoken: str = ""


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


async def read_from_helper(name: str, login_server: str, identifier: object) -> Credential:
    """What a credential helper has for a login server; raises `SecretUnavailable`."""
    program = f"docker-credential-{name}"
    server = _HUB if login_server == "docker.io" else login_server
    status, printed = await run([program, "get"], identifier, given=server.encode())
    if status:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {program} has nothing for {server}, or failed (status {status}).",
            f"Sign in with docker login, or try by hand: echo {server} | {program} get",
        )
    try:
        given = msgspec.json.decode(printed, type=_Given)
    except (msgspec.DecodeError, UnicodeDecodeError):
        given = None
    if given is None:
        raise SecretUnavailable(f"The secret {identifier} can't be read: {program} answers with something else than a credential.", "Is it the right helper?")
    if given.username == _IDENTITY_TOKEN:
        raise _identity_token(identifier, program)
    return _credential(given.username, given.secret, identifier, program)


async def read_from_config(login_server: str, identifier: object) -> Credential:
    """What docker's own configuration of the engine's user has for a login server; raises `SecretUnavailable`."""
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    content = await asyncio.to_thread(read_private_file, str(path), identifier)
    try:
        config = msgspec.json.decode(content, type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SecretUnavailable(f"The secret {identifier} can't be read: {path} is not a configuration of docker.", "Sign in with: docker login") from None
    helper = _entry(config.cred_helpers, login_server) or config.creds_store
    if helper:
        return await read_from_helper(helper, login_server, identifier)
    auth = _entry(config.auths, login_server)
    if auth is None:
        raise SecretUnavailable(f"The secret {identifier} can't be read: {path} has nothing for {login_server}.", f"Sign in with: docker login {login_server}")
    if auth.identitytoken:
        raise _identity_token(identifier, str(path))
    try:
        username, _, password = base64.b64decode(auth.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        username = password = ""
    return _credential(username, password.rstrip("\0"), identifier, str(path))


def _credential(username: str, password: str, identifier: object, where: str) -> Credential:
    if not username or not password:
        raise SecretUnavailable(f"The secret {identifier} can't be used: {where} has no user name and password for it.", "Sign in with: docker login")
    return Credential(Secret(username), Secret(password))


def _identity_token(identifier: object, where: str) -> SecretUnavailable:
    return SecretUnavailable(
        f"The secret {identifier} can't be used: {where} has an identity token there, which is no password.", "Keep a user name and an access token instead."
    )


def _entry(entries: dict[str, Value], login_server: str) -> Value | None:
    """Docker writes servers as they were typed at its login: with or without https://, and with a path behind."""
    wanted = _HUB_NAMES if login_server == "docker.io" else {login_server}
    return next((value for server, value in entries.items() if _host(server) in wanted), None)


def _host(server: str) -> str:
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]
