"""Secret identifiers: texts that say where a secret is stored. Pure: no I/O."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from entrepot.errors import Refusal

IDENTIFIER_LENGTH = 1024
"""The longest identifier, in characters.

A screen shows it on one line; a command with its arguments is the longest kind.
"""

_KINDS = (
    "Say where the secret is kept: env:NAME, file:/path, keyring:SERVICE/USER, "
    "https://VAULT.vault.azure.net/secrets/NAME, docker-config:password, "
    "docker-helper:NAME/password or command:/path."
)
_NEVER = "The secret itself must not stand here: Entrepot never keeps one."
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VAULT = re.compile(
    r"//([A-Za-z0-9-]{3,24}\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net))(/.*)?",
    re.IGNORECASE,
)
_VAULT_SECRET = re.compile(r"/secrets/([A-Za-z0-9-]{1,127})/?")
_VAULT_VERSION = re.compile(r"/secrets/[A-Za-z0-9-]{1,127}/[0-9a-f]{32}/?", re.IGNORECASE)
_HELPER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)/(username|password)")


class SecretIdentifierInvalid(Refusal):
    """A text is not the identifier of a secret.

    The message does not repeat it: it may be the secret itself.
    """

    code = "SecretIdentifierInvalid"


@dataclass(frozen=True, slots=True, order=True)
class SecretIdentifier:
    """Where a secret is stored: ``env:HUB_USER`` or ``file:/run/secrets/hub``.

    *scheme* and *place* are the parts before and after the first colon.
    """

    scheme: str
    place: str

    @classmethod
    def parse(cls, text: str, *, field: str | None = None) -> SecretIdentifier:
        """Read an identifier.

        Raises `SecretIdentifierInvalid`, which does not repeat *text*.
        """
        identifier = text.strip()
        if not identifier:
            raise SecretIdentifierInvalid("The secret identifier is missing.", _KINDS, field=field)
        scheme, colon, place = identifier.partition(":")
        parse_place = _PLACE_PARSERS.get(scheme.lower())
        try:
            if not colon or parse_place is None:
                raise SecretIdentifierInvalid(
                    "This is not a secret identifier.", f"{_KINDS} {_NEVER}"
                )
            if len(identifier) > IDENTIFIER_LENGTH or not identifier.isprintable():
                raise SecretIdentifierInvalid(
                    "This is not a secret identifier.",
                    f"It has one line of at most {IDENTIFIER_LENGTH:,} printable characters. "
                    f"{_NEVER}",
                )
            return cls(scheme.lower(), parse_place(place))
        except SecretIdentifierInvalid as refusal:
            refusal.field = field
            raise

    def __str__(self) -> str:
        return f"{self.scheme}:{self.place}"

    @property
    def runs_program(self) -> bool:
        """Whether the engine runs a program to get the secret."""
        return self.scheme in PROGRAMS


KINDS = ("env", "file", "keyring", "https", "docker-config", "docker-helper", "command")
"""The schemes, which may stand before the first colon."""

PROGRAMS = frozenset({"command", "docker-helper"})
"""Kinds that name a program, which the engine runs."""


def runs_program(text: str) -> bool:
    """Whether a text has the scheme of a secret that a program gives.

    Nothing else is checked.
    """
    return text.strip().partition(":")[0].lower() in PROGRAMS


def _variable(place: str) -> str:
    if not _VARIABLE.fullmatch(place):
        raise SecretIdentifierInvalid(
            "What follows env: is not the name of an environment variable.",
            "Write env: and a name of letters, digits and _, such as env:HUB_USER.",
        )
    return place


def _path(place: str) -> str:
    # file:///run/secrets/hub is the same file as file:/run/secrets/hub (RFC 8089).
    path = place[2:] if place.startswith("///") else place
    if not path.startswith("/") or path.startswith("//") or path == "/":
        raise SecretIdentifierInvalid(
            "What follows file: is not the absolute path of a file.",
            "Write the whole path, such as file:/run/secrets/hub-password.",
        )
    return path


def _keyring_entry(place: str) -> str:
    service, slash, user = place.rpartition("/")
    if not (slash and service.strip() and user.strip()):
        raise SecretIdentifierInvalid(
            "What follows keyring: is not an entry of a keyring.",
            "Write the names of service and user, such as keyring:entrepot/hub-password.",
        )
    return place


def _vault_secret(place: str) -> str:
    vault = _VAULT.fullmatch(place)
    if vault is None:
        raise SecretIdentifierInvalid(
            "This is not the address of a secret in an Azure Key Vault.", f"{_KINDS} {_NEVER}"
        )
    if _VAULT_VERSION.fullmatch(vault[2] or ""):
        # ACR's own examples have none; Terraform refuses one.
        raise SecretIdentifierInvalid(
            "The address names one version of the secret, and a rotated one would never be picked "
            "up.",
            "Leave the version out: the newest is read.",
        )
    secret = _VAULT_SECRET.fullmatch(vault[2] or "")
    if secret is None:
        raise SecretIdentifierInvalid(
            "The address does not name a secret of its Azure Key Vault.",
            "Write https://VAULT.vault.azure.net/secrets/NAME.",
        )
    return f"//{vault[1].lower()}/secrets/{secret[1]}"


def _docker_config(place: str) -> str:
    if place not in {"username", "password"}:
        raise SecretIdentifierInvalid(
            "What follows docker-config: is neither username nor password.",
            "Write docker-config:username or docker-config:password.",
        )
    return place


def _docker_helper(place: str) -> str:
    if not _HELPER.fullmatch(place):
        raise SecretIdentifierInvalid(
            "What follows docker-helper: is not a credential helper of docker.",
            "Write its name and what is wanted of it: docker-helper:ecr-login/username or "
            "docker-helper:ecr-login/password.",
        )
    return place


def _command(place: str) -> str:
    try:
        words = shlex.split(place)
    except ValueError:
        words = []
    if not words or not words[0].startswith("/"):
        raise SecretIdentifierInvalid(
            "What follows command: is not a program with its arguments.",
            "Write the whole path of the program, such as command:/usr/bin/hub-token --print.",
        )
    return place.strip()


_PLACE_PARSERS: dict[str, Callable[[str], str]] = {
    "env": _variable,
    "file": _path,
    "keyring": _keyring_entry,
    "https": _vault_secret,
    "docker-config": _docker_config,
    "docker-helper": _docker_helper,
    "command": _command,
}
"""For each scheme the function that gives the normal form of a place.

Raises `SecretIdentifierInvalid`.
"""
