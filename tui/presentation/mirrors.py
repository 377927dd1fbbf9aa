"""What a client needs to pull unchanged image names through the engine, to read and to copy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.mirror_setup import mirror_setup
from entrepot.api.models import EngineStatus, RuleSnapshot
from entrepot.core.mirror_configuration.clients import KINDS, Client, configure
from entrepot.core.mirror_configuration.setup import (
    PLACEHOLDER,
    Endpoint,
    MirrorConfigurationImpossible,
)
from entrepot.errors import EntrepotError


@dataclass(frozen=True, slots=True)
class ClientText:
    """The configuration of one client."""

    client: Client
    title: str
    """``Podman, skopeo, Buildah``"""
    place: str
    """The file or directory that it reads."""
    text: str
    """Its files; empty where it can't be configured."""
    notes: tuple[str, ...]
    """What else there is to do, or why it can't be configured."""
    command: str
    """The command that installs the same."""


def client_texts(
    status: EngineStatus, rules: Sequence[RuleSnapshot], rule: str | None
) -> tuple[ClientText, ...]:
    """The configurations of all clients, for all rules or the one named *rule*."""
    return tuple(_client_text(client, status, rules, rule) for client in Client)


def _client_text(
    client: Client, status: EngineStatus, rules: Sequence[RuleSnapshot], rule: str | None
) -> ClientText:
    kind = KINDS[client]
    command = ["entrepot", "mirror", str(client), *(["--rule", rule] if rule else []), "--write"]
    text = ""
    notes: tuple[str, ...]
    unspecified = Endpoint(status.address).is_unspecified
    try:
        setup = mirror_setup(status, rules, rule=rule, address=PLACEHOLDER if unspecified else None)
        configuration = configure(client, setup)
    except EntrepotError as error:
        if not isinstance(error, MirrorConfigurationImpossible):
            raise
        notes = (error.what, error.hint)
    else:
        files = configuration.files
        text = (
            files[0].text
            if len(files) == 1
            else "\n".join(f"# {file.path}\n{file.text}" for file in files)
        )
        notes = configuration.notes
    if unspecified:
        notes = (
            f"Write the name of the engine's machine in place of {PLACEHOLDER}: the engine "
            "listens on all of its addresses.",
            *notes,
        )
        command += ["--address", PLACEHOLDER]
    return ClientText(client, kind.title, kind.place, text, notes, shlex.join(command))
