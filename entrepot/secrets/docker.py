"""Read credentials that docker stores, in a helper or in its ``config.json``.

A helper is a program ``docker-credential-NAME``; ``get`` reads the server's address on standard
input and prints ``{"ServerURL", "Username", "Secret"}`` (README of
docker/docker-credential-helpers, "Development"). ``config.json`` names the helper of a server in
``credHelpers``, that of all others in ``credsStore``, and else holds ``user:password`` in base64,
or both in plain text, under ``auths`` (docker/cli, ``cli/config/configfile``). The files are read
as Go reads JSON: keys in any case, null for what is missing (F83). A login that docker does not
have is looked up where podman stores it (containers-auth.json(5)).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from entrepot.encoding import NotUtf8, decode_text
from entrepot.formatting import printable
from entrepot.secrets.file import read_private_file
from entrepot.secrets.program import run
from entrepot.secrets.secret import Credential, Secret, SecretUnavailable, usable

MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024
"""The largest configuration that is read, in bytes. A thousand logins take about 0.3 MB."""

_HUB = "https://index.docker.io/v1/"
"""The address under which docker stores a login to Docker Hub."""

_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

_HUB_TOKENS = frozenset({"v1/access-token", "v1/refresh-token"})
"""Tokens that docker's sign-in with a browser stores beside the login of Docker Hub."""

_WHOLE_REGISTRY = frozenset({"", "v1", "v2"})
"""Paths behind a host that stand for the registry as a whole."""

_IDENTITY_TOKEN = "<token>"
"""The user name of an identity token (docker/docker-credential-helpers, README)."""

_NOT_FOUND = b"credentials not found in native keychain"
"""The output of a helper that has no such credential (``credentials/error.go``)."""

_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


async def read_from_helper(name: str, login_server: str, identifier: object) -> Credential:
    """The login to a server that a credential helper has; raises `SecretUnavailable`."""
    if not _HELPER_NAME.fullmatch(name):
        what = f"{printable(name, 60)} is not the name of a credential helper"
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {what}.",
            "Write the name without docker-credential-, such as ecr-login.",
        )
    program = f"docker-credential-{name}"
    server = _HUB if login_server == "docker.io" else login_server
    status, output = await run([program, "get"], identifier, stdin=server.encode())
    if status and output.strip().startswith(_NOT_FOUND):
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {program} has nothing for {server}.",
            f"Sign in with: docker login {login_server}",
        )
    if status:
        # Its output is an error in words then, which may repeat what it read.
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {program} failed for {server} (status "
            f"{status}).",
            f"Try by hand, as the user of the engine: echo {server} | {program} get",
        )
    answer = _read_json(output)
    if not isinstance(answer, dict) or not answer:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {program} answers with something else than a "
            "credential.",
            "Is it the right helper?",
        )
    values = _lower_keys(answer)
    username = _text(values, "username")
    if username == _IDENTITY_TOKEN:
        raise _no_password(identifier, program, "an identity token", login_server)
    return _credential(username, _text(values, "secret"), identifier, program, login_server)


async def read_from_config(login_server: str, identifier: object) -> Credential:
    """The login to a server that docker, or else podman, has for the engine's user.

    A login in ``DOCKER_AUTH_CONFIG`` comes first, as for docker. Raises `SecretUnavailable`.
    """
    if (
        entry := _login(_from_environment(), login_server, identifier, "DOCKER_AUTH_CONFIG")
    ) is not None:
        return _stored(
            entry, identifier, "the environment variable DOCKER_AUTH_CONFIG", login_server
        )
    docker = _docker_file(identifier)
    files = await asyncio.to_thread(_existing, [docker, *_podman_files()])
    for file in files:
        config = await _read_config(file, identifier)
        if helper := _helper(config, login_server, identifier, file):
            return await read_from_helper(helper, login_server, identifier)
        if (entry := _login(config, login_server, identifier, str(file))) is not None:
            return _stored(entry, identifier, str(file), login_server)
    verb = "has" if len(files) == 1 else "have"
    what = f"{' and '.join(map(str, files))} {verb} nothing for {login_server}"
    if not files:
        what = f"there is no {docker}"
    raise SecretUnavailable(
        f"The secret {identifier} can't be read: {what}.",
        f"Sign in with: docker login {login_server}",
    )


def _docker_file(identifier: object) -> Path:
    directory = os.environ.get("DOCKER_CONFIG")
    home = os.path.expanduser("~")
    if not directory and not os.path.isabs(home):
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: the engine's user has no home directory.",
            "Set DOCKER_CONFIG to the directory of config.json where the engine is started.",
        )
    return Path(directory or f"{home}/.docker") / "config.json"


def _podman_files() -> list[Path]:
    """The files in which podman, skopeo and buildah store logins."""
    named = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    directory = f"{runtime}/containers" if runtime else f"/run/containers/{os.geteuid()}"
    return [Path(named or f"{directory}/auth.json"), Path(config) / "containers" / "auth.json"]


def _existing(files: Iterable[Path]) -> list[Path]:
    """The files that exist, without repeats; also those that stat(2) fails for.

    Blocks.
    """
    existing = []
    for file in dict.fromkeys(files):
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            # To read it gives an error that says why.
            pass
        existing.append(file)
    return existing


async def _read_config(file: Path, identifier: object) -> Mapping[str, Any]:
    content = await asyncio.to_thread(
        read_private_file, str(file), identifier, limit=MAX_CONFIG_SIZE
    )
    if len(content) > MAX_CONFIG_SIZE:
        raise SecretUnavailable(
            f"The secret {identifier} is not read: {file} is longer than {MAX_CONFIG_SIZE:,} "
            "bytes.",
            "Leave nothing but logins in it.",
        )
    try:
        text = decode_text(content)
    except NotUtf8 as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {file} {error}.", "Save it as UTF-8."
        ) from None
    # Docker takes an empty file for one without logins.
    config = _read_json(content) if text.strip() else {}
    values = _lower_keys(config) if isinstance(config, dict) else {"auths": False}
    if not all(isinstance(values.get(name), dict | None) for name in ("auths", "credhelpers")):
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {file} is not a configuration of docker.",
            "Sign in with: docker login",
        )
    return values


def _from_environment() -> Mapping[str, Any]:
    """The logins in ``DOCKER_AUTH_CONFIG``; docker ignores what it can't read there."""
    config = _read_json(os.environb.get(b"DOCKER_AUTH_CONFIG", b""))
    values = _lower_keys(config) if isinstance(config, dict) else {}
    return values if isinstance(values.get("auths"), dict) else {}


def _helper(config: Mapping[str, Any], login_server: str, identifier: object, file: Path) -> str:
    """The name of the helper for a login server.

    Empty where the logins are in the file itself.
    """
    key = _key(config.get("credhelpers") or {}, login_server, identifier, str(file))
    # With an empty name for a server, docker stores the login of that server in the file.
    name = config.get("credsstore") if key is None else config["credhelpers"][key]
    return name if isinstance(name, str) else ""


def _login(
    config: Mapping[str, Any], login_server: str, identifier: object, where: str
) -> Mapping[str, Any] | None:
    """The entry for a login server.

    None for an empty one, which docker leaves for a helper.
    """
    key = _key(config.get("auths") or {}, login_server, identifier, where)
    entry = None if key is None else config["auths"][key]
    return (_lower_keys(entry) or None) if isinstance(entry, dict) else None


def _stored(
    entry: Mapping[str, Any], identifier: object, where: str, login_server: str
) -> Credential:
    username, password = _text(entry, "username"), _text(entry, "password")
    if encoded := _text(entry, "auth"):
        try:
            # Docker's own reader ignores line ends; other writers leave the padding out.
            encoded = "".join(encoded.split()).rstrip("=")
            pair = decode_text(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
        except (binascii.Error, ValueError):
            pair = ""
        if ":" in pair:
            username, _, password = pair.partition(":")
    password = password.strip("\0")
    if not (username and password):
        for key, kind in (
            ("identitytoken", "an identity token"),
            ("registrytoken", "a registry token"),
        ):
            if _text(entry, key):
                raise _no_password(identifier, where, kind, login_server)
    return _credential(username, password, identifier, where, login_server)


def _credential(
    username: str, password: str, identifier: object, where: str, login_server: str
) -> Credential:
    if not username or not password:
        hint = f"Sign in with: docker login {login_server}"
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: {where} has no user name and password for "
            f"{login_server}.",
            hint,
        )
    return Credential(
        Secret(usable(username, identifier, f"the user name of {where}")),
        Secret(usable(password, identifier, f"the password of {where}")),
    )


def _no_password(identifier: object, where: str, kind: str, login_server: str) -> SecretUnavailable:
    return SecretUnavailable(
        f"The secret {identifier} can't be used: {where} has {kind} for {login_server}, which is "
        "no password.",
        f"Store a user name and an access token instead: docker login -u NAME {login_server}",
    )


def _key(
    entries: Mapping[str, Any], login_server: str, identifier: object, where: str
) -> str | None:
    """The key of a login server.

    Docker's own spelling comes first. Then any that means the same host: people and other tools
    write ``https://``, ``:443``, ``/v2/`` or capitals. Raises `SecretUnavailable` where podman has
    several logins for parts of the registry and none for the whole.
    """
    own = _HUB if login_server == "docker.io" else login_server
    if own in entries:
        return own
    hosts = _HUB_HOSTS if login_server == "docker.io" else {_split(login_server)[0]}
    split = {key: _split(key) for key in entries}
    paths = {
        key: path
        for key, (host, path) in split.items()
        if host in hosts and path not in _HUB_TOKENS
    }
    if whole := [key for key, path in paths.items() if path in _WHOLE_REGISTRY]:
        return whole[0]
    if len(paths) > 1:
        parts = ", ".join(printable(key, 60) for key in sorted(paths)[:3])
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {where} has several logins for parts of "
            f"{login_server} ({parts}), and a credential set has one.",
            f"Sign in for the whole registry: podman login {login_server}",
        )
    return next(iter(paths), None)


def _split(server: str) -> tuple[str, str]:
    """The host of a key, in lower case and without the usual port, and its path."""
    before, scheme, after = server.strip().lower().rpartition("://")
    host, _, path = after.partition("/")
    usual = ":80" if scheme and before == "http" else ":443"
    return host.removesuffix(usual), path.strip("/")


def _read_json(content: bytes) -> object:
    """The first JSON value, as Go's decoder reads it, or None.

    Bytes behind it are ignored.
    """
    try:
        return json.JSONDecoder().raw_decode(decode_text(content).lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _lower_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in values.items()}


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""
