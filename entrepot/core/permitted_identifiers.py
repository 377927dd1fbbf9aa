"""Which secret identifiers a client on another machine may use (S13).

Pure but for one check. A client that creates a credential set makes the engine read files and
variables of its user, run programs as that user, and send their content to a login server. On the
Unix socket that is no more than this user can do anyway. A token of the management API on TCP would
allow it to other machines, so there only some kinds are permitted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.errors import Refusal

KINDS_OVER_TCP: Final = frozenset({"keyring", "https"})
"""Kinds that run no program and read no file or variable that the identifier names."""


class SecretKindNotAllowed(Refusal):
    """The management API on TCP does not take this kind of identifier, or this place.

    The message does not repeat the identifier.
    """

    code = "SecretKindNotAllowed"
    status = 403


@dataclass(frozen=True, slots=True)
class PermittedIdentifiers:
    """The identifiers that a client may use.

    *kinds* are permitted as they are (None: all), besides ``file:`` below the directory *files*,
    and ``env:`` with names that begin with *variables*.
    """

    kinds: frozenset[str] | None = KINDS_OVER_TCP
    files: Path | None = None
    variables: str | None = None

    def check(self, identifier: SecretIdentifier, *, field: str | None = None) -> None:
        """Raise `SecretKindNotAllowed`, which names the setting that allows *identifier*.

        Blocks: links to a file are followed.
        """
        kind = identifier.scheme
        if self.kinds is None or kind in self.kinds:
            return
        if kind == "file" and self.files is not None:
            if _is_below(identifier.place, self.files):
                return
            raise _refusal(
                f"Over TCP a file has to lie below {self.files}.",
                "secret_files names that directory",
                field,
            )
        if kind == "env" and self.variables:
            if identifier.place.startswith(self.variables):
                return
            raise _refusal(
                f"Over TCP the name of a variable has to begin with {self.variables}.",
                "secret_variables names that beginning",
                field,
            )
        narrower_settings = {
            "file": ', secret_files = "/run/secrets" those below a directory',
            "env": ', secret_variables = "ENTREPOT_SECRET_" those that begin so',
        }
        raise _refusal(
            f"Secret identifiers of the kind {kind}: are not taken over TCP.",
            f'secret_kinds = ["{kind}"] allows them{narrower_settings.get(kind, "")}',
            field,
        )


DEFAULT_OVER_TCP: Final = PermittedIdentifiers()
"""The identifiers that the API on TCP takes unless the settings say otherwise."""

EVERY_IDENTIFIER: Final = PermittedIdentifiers(kinds=None)
"""The identifiers that the Unix socket takes: only the engine's own user can open it."""


def _refusal(what: str, setting: str, field: str | None) -> SecretKindNotAllowed:
    hint = (
        "Create the credential set on the engine's machine, or let its administrator change "
        f"settings.toml: below [management] {setting}."
    )
    return SecretKindNotAllowed(what, hint, field=field)


def _is_below(place: str, directory: Path) -> bool:
    # A link in the directory, or "..", may lead out of it: the file that would be read counts.
    root = os.path.realpath(directory)
    target = os.path.realpath(place)
    return target != root and os.path.commonpath([root, target]) == root
