"""Secrets in memory, which do not show themselves, and errors about secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from entrepot.causes import Cause
from entrepot.encoding import NotUtf8, decode_text
from entrepot.errors import EntrepotError

SECRET_LENGTH = 64 * 1024
"""The longest secret that is read, in bytes. A Google service-account key has about 2,400."""


class SecretUnavailable(EntrepotError):
    """A secret can't be read now."""

    code = "SecretUnavailable"
    status = 424
    oci_status = 503


def unreadable(identifier: object, cause: Cause) -> SecretUnavailable:
    """The error for a secret that can't be read because of a fault of this machine."""
    error = SecretUnavailable(f"The secret {identifier} can't be read. {cause.what}", cause.hint)
    error.cause = cause.code
    return error


class SecretForbidden(SecretUnavailable):
    """A store refuses the secret to the engine. The code is ACR's for it."""

    code = "Forbidden"


class VaultIdentityUnknown(SecretUnavailable):
    """Azure does not know the identity of the engine (AADSTS700016).

    The code is ACR's for it.
    """

    code = "unauthorized_client"


def decoded(content: bytes, identifier: object, what: str, *, may_be_empty: bool = False) -> str:
    """A secret as text, without a byte order mark and the line end that follows it.

    Raises `SecretUnavailable`, in which *what* names the place of the secret.
    """
    if len(content) > SECRET_LENGTH:
        raise SecretUnavailable(
            f"The secret {identifier} is not read: {what} is longer than {SECRET_LENGTH:,} bytes.",
            "Leave nothing else there.",
        )
    try:
        value = decode_text(content).rstrip("\r\n")
    except NotUtf8 as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: {what} {error}.",
            "Save it as plain UTF-8 text.",
        ) from None
    return value if may_be_empty and not value else usable(value, identifier, what)


def usable(value: str, identifier: object, what: str) -> str:
    """*value*, if a sign-in could send it.

    Raises `SecretUnavailable`, in which *what* names the place of the secret.
    """
    if not value:
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: {what} is empty.", "Put the secret there."
        )
    if "\0" in value:
        # RFC 7617, 2: neither user name nor password may have control characters, and this one ends
        # a text for many programs.
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: {what} holds a zero byte (NUL).",
            "Give the secret as plain UTF-8 text.",
        )
    return value


class Secret:
    """A secret that does not show itself in logs, tracebacks or formatted text.

    `reveal` gives it to the code that signs in with it.
    """

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
        raise TypeError("A secret can't be pickled.")


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and a password."""

    username: Secret
    password: Secret
