"""The kinds of secret identifiers, each with an example and why one would choose it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SecretKind:
    """A place where secrets may be kept. *begins* is how its identifiers begin."""

    begins: str
    username: str
    password: str
    what: str
    why: str


SECRET_KINDS = (
    SecretKind(
        "env:",
        "env:HUB_USER",
        "env:HUB_TOKEN",
        "a variable of the engine",
        "An environment variable of the engine, read each time it signs in. It is set where the engine is started, and a new value needs a restart.",
    ),
    SecretKind(
        "file:",
        "file:/run/secrets/hub-user",
        "file:/run/secrets/hub-token",
        "a file",
        "A file on the engine's machine that no other user can read: mode 600, or as systemd, Docker and Kubernetes mount it. New content needs no restart.",
    ),
    SecretKind(
        "keyring:",
        "keyring:entrepot/hub-user",
        "keyring:entrepot/hub-token",
        "the system's keyring",
        "An entry of the system's keyring, by the names of service and user. A server often has none that is unlocked; then take a file.",
    ),
    SecretKind(
        "https:",
        "https://contoso.vault.azure.net/secrets/hub-user",
        "https://contoso.vault.azure.net/secrets/hub-token",
        "an Azure Key Vault",
        "A secret in an Azure Key Vault, without its version, so that a rotated one is picked up. The engine's identity needs the right to get secrets there.",
    ),
    SecretKind(
        "docker-config:",
        "docker-config:username",
        "docker-config:password",
        "what docker login kept",
        "What docker login or podman login has kept for this registry, for the engine's user: in their files, or the store of credentials that they name.",
    ),
    SecretKind(
        "docker-helper:",
        "docker-helper:ecr-login/username",
        "docker-helper:ecr-login/password",
        "a helper of docker",
        "A credential helper of docker, by its name: docker-helper:ecr-login runs docker-credential-ecr-login. For credentials that live a few hours only.",
    ),
    SecretKind(
        "command:",
        "command:/usr/local/bin/hub-login user",
        "command:/usr/local/bin/hub-login token",
        "what a program prints",
        "The first line that a program prints, by its whole path; no shell is involved. For any other store of secrets.",
    ),
)
"""In the order in which one would consider them."""


def secret_kind_of(identifier: str) -> SecretKind | None:
    """The kind that an identifier belongs to as far as it is typed; None when it could be several,
    or none."""
    lowered = identifier.strip().lower()
    return next((each for each in SECRET_KINDS if lowered.startswith(each.begins)), None)


def is_program(identifier: str) -> bool:
    """Whether the engine runs a program to get such a secret."""
    kind = secret_kind_of(identifier)
    return kind is not None and kind.begins in {"command:", "docker-helper:"}


def identifier_help(identifier: str) -> str:
    """What is known about an identifier that is being typed, in a sentence or two."""
    kind = secret_kind_of(identifier)
    if kind is None:
        return "An identifier says where a secret is kept. The secret itself must not stand here: it is never stored, shown or logged."
    return kind.why
