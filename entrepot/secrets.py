"""Secret identifiers, and the secrets they lead to.

Only the identifier of a secret is ever kept, shown or logged. The secret itself is read when a source registry asks for it, and held in a `Secret`,
which does not show it.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from entrepot.errors import EntrepotError, Refusal

if TYPE_CHECKING:
    from entrepot.credentials import CredentialSet

SECRET_LENGTH = 64 * 1024
"""The longest secret that is read from a file, in bytes. A Google service-account key has about 2,400."""

_WORKING = "Give env:NAME for an environment variable of the engine, or file:/path for a file that only the engine's user can read."
_ONE_SECRET = "Give the path of a file that holds the secret and nothing else."
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VAULT = re.compile(r"https://[A-Za-z0-9-]+\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)(?:/|$)", re.IGNORECASE)


class SecretIdentifierInvalid(Refusal):
    """A text is not the identifier of a secret. It is not repeated in the message: it may be the secret itself."""

    code = "SecretIdentifierInvalid"


class SecretStoreNotSupported(SecretIdentifierInvalid):
    """An identifier leads to a store of secrets that Entrepot can't read."""

    code = "SecretStoreNotSupported"


class SecretUnavailable(EntrepotError):
    """A secret can't be read now."""

    code = "SecretUnavailable"
    status = 424
    oci_status = 503


@dataclass(frozen=True, slots=True, order=True)
class SecretIdentifier:
    """Where a secret is kept: ``env:HUB_USER`` or ``file:/run/secrets/hub``."""

    scheme: str
    place: str

    @classmethod
    def parse(cls, text: str, *, field: str | None = None) -> SecretIdentifier:
        """Read an identifier; raises `SecretIdentifierInvalid` or `SecretStoreNotSupported`, neither of which repeats *text*."""
        identifier = text.strip()
        if not identifier:
            raise SecretIdentifierInvalid("The secret identifier is missing.", _WORKING, field=field)
        scheme, colon, place = identifier.partition(":")
        scheme = scheme.lower()
        if not colon:
            raise SecretIdentifierInvalid(
                "This is not a secret identifier.", f"{_WORKING} The secret itself must not stand here: Entrepot never keeps one.", field=field
            )
        if scheme == "env":
            if not _VARIABLE.fullmatch(place):
                raise SecretIdentifierInvalid(
                    "What follows env: is not the name of an environment variable.",
                    "Write env: and a name of letters, digits and _, such as env:HUB_USER.",
                    field=field,
                )
            return cls("env", place)
        if scheme == "file":
            return cls("file", _path(place, field))
        if scheme == "keyring":
            raise SecretStoreNotSupported("Secrets of a keyring can't be read yet.", _WORKING, field=field)
        if _VAULT.match(identifier):
            raise SecretStoreNotSupported("Secrets of an Azure Key Vault can't be read yet.", _WORKING, field=field)
        raise SecretIdentifierInvalid(
            "This is not a secret identifier of a kind that Entrepot can read.",
            f"{_WORKING} The secret itself must not stand here: Entrepot never keeps one.",
            field=field,
        )

    def __str__(self) -> str:
        return f"{self.scheme}:{self.place}"


class Secret:
    """A secret that does not show itself in logs, tracebacks or formatted text. `reveal` gives it to whoever signs in with it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not written to anything.")


@dataclass(frozen=True, slots=True)
class Credential:
    """What a sign-in needs."""

    username: Secret
    password: Secret


async def read_secret(identifier: SecretIdentifier) -> Secret:
    """Read a secret; raises `SecretUnavailable`, which names the identifier and never the value."""
    if identifier.scheme == "env":
        return _from_environment(identifier)
    return await asyncio.to_thread(_from_file, identifier)


async def read_credential(credential_set: CredentialSet) -> Credential:
    """Read the user name and the password of a credential set; raises `SecretUnavailable`."""
    return Credential(username=await read_secret(credential_set.username), password=await read_secret(credential_set.password))


def _path(place: str, field: str | None) -> str:
    # file:///run/secrets/hub is the same file as file:/run/secrets/hub (RFC 8089).
    path = place[2:] if place.startswith("///") else place
    if not path.startswith("/") or path.startswith("//") or path == "/" or any(ord(character) < 32 for character in path):
        raise SecretIdentifierInvalid(
            "What follows file: is not the absolute path of a file.", "Write the whole path, such as file:/run/secrets/hub-password.", field=field
        )
    return path


def _from_environment(identifier: SecretIdentifier) -> Secret:
    value = os.environ.get(identifier.place)
    if value:
        return Secret(value)
    state = "not set" if value is None else "empty"
    raise SecretUnavailable(
        f"The secret {identifier} can't be read: the environment variable {identifier.place} is {state} for the engine.",
        "Set it where the engine is started, and start the engine again.",
    )


def _from_file(identifier: SecretIdentifier) -> Secret:
    path = identifier.place
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {error.strerror}.", f"Put the secret into {path}, and let the engine's user read it (chmod 600)."
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretUnavailable(f"The secret {identifier} can't be read: {path} is not a file.", _ONE_SECRET)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise SecretUnavailable(f"The secret {identifier} is not read: others than its owner may use {path} (mode {mode:04o}).", f"Run: chmod 600 {path}")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(SECRET_LENGTH + 1)
    except OSError as error:
        raise SecretUnavailable(f"The secret {identifier} can't be read: {error.strerror}.", f"Look at the file system that holds {path}.") from None
    finally:
        os.close(descriptor)
    if len(content) > SECRET_LENGTH:
        raise SecretUnavailable(f"The secret {identifier} is not read: {path} is longer than {SECRET_LENGTH:,} bytes.", _ONE_SECRET)
    try:
        value = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretUnavailable(f"The secret {identifier} can't be used: {path} is not UTF-8 text.", "Write the secret into it as plain text.") from None
    if not value:
        raise SecretUnavailable(f"The secret {identifier} can't be used: {path} is empty.", f"Put the secret into {path}.")
    return Secret(value)
