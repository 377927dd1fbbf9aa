"""The kinds of secret identifiers, each with an example and when to choose it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SecretKind:
    """A place for secrets. *begins* is the prefix of its identifiers."""

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
        "An environment variable of the engine, read each time it signs in. It is set where the "
        "engine is started, and a new value needs a restart.",
    ),
    SecretKind(
        "file:",
        "file:/run/secrets/hub-user",
        "file:/run/secrets/hub-token",
        "a file",
        "A file on the engine's machine that no other user can read: mode 600, or as systemd, "
        "Docker and Kubernetes mount it. New content needs no restart.",
    ),
    SecretKind(
        "keyring:",
        "keyring:entrepot/hub-user",
        "keyring:entrepot/hub-token",
        "the system's keyring",
        "An entry of the system's keyring, by the names of service and user. A server often has no "
        "unlocked keyring; use a file there.",
    ),
    SecretKind(
        "https:",
        "https://contoso.vault.azure.net/secrets/hub-user",
        "https://contoso.vault.azure.net/secrets/hub-token",
        "an Azure Key Vault",
        "A secret in an Azure Key Vault, without its version, so that a rotated one is picked up. "
        "The engine's identity needs permission to get secrets there.",
    ),
    SecretKind(
        "docker-config:",
        "docker-config:username",
        "docker-config:password",
        "what docker login stored",
        "What docker login or podman login has stored for this registry, for the engine's user: in "
        "their files, or in the credential store that these name.",
    ),
    SecretKind(
        "docker-helper:",
        "docker-helper:ecr-login/username",
        "docker-helper:ecr-login/password",
        "a docker credential helper",
        "A credential helper of docker, by its name: docker-helper:ecr-login runs "
        "docker-credential-ecr-login. For credentials that expire after a few hours.",
    ),
    SecretKind(
        "command:",
        "command:/usr/local/bin/hub-login user",
        "command:/usr/local/bin/hub-login token",
        "the output of a program",
        "The first line that a program prints, named by its full path; no shell is involved. For "
        "any other store of secrets.",
    ),
)
"""The kinds, in the order in which the wizard offers them."""


def secret_kind_of(identifier: str) -> SecretKind | None:
    """The kind of an identifier that is being typed; None if it has no kind's prefix."""
    lowered = identifier.strip().lower()
    return next((kind for kind in SECRET_KINDS if lowered.startswith(kind.begins)), None)


def is_program(identifier: str) -> bool:
    """Whether the engine runs a program to get the secret."""
    kind = secret_kind_of(identifier)
    return kind is not None and kind.begins in {"command:", "docker-helper:"}


def identifier_help(identifier: str) -> str:
    """A hint about an identifier that is being typed."""
    kind = secret_kind_of(identifier)
    if kind is None:
        return (
            "An identifier says where a secret is kept. The secret itself does not belong here: "
            "it is never stored, shown or logged."
        )
    return kind.why
