"""Which secret identifiers may be made, or tried, from afar (S13).

Who may make a credential set has the engine read files and variables of its user, run programs as
that user, and send what it finds to a login server. On the Unix socket that is no more than this
user may do anyway. A token of the management API on TCP gives it to other machines, so there only
some kinds are allowed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.errors import Refusal

KINDS_OVER_TCP: Final = frozenset({"keyring", "https"})
"""Those that neither run a program nor read a file or a variable which the identifier names."""


class SecretKindNotAllowed(Refusal):
    """Identifiers of this kind, or to this place, are not taken over the management API on TCP. The
    identifier is not repeated."""

    code = "SecretKindNotAllowed"
    status = 403


@dataclass(frozen=True, slots=True)
class PermittedIdentifiers:
    """*kinds* are taken as they are (None: all). Besides them ``file:`` below the directory
    *files*, and ``env:`` for names that begin with *variables*."""

    kinds: frozenset[str] | None = KINDS_OVER_TCP
    files: Path | None = None
    variables: str | None = None

    def check(self, identifier: SecretIdentifier, *, field: str | None = None) -> None:
        """Raises `SecretKindNotAllowed`, which says which setting allows it. Blocks: for a file it
        asks the file system where links lead."""
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
        besides = {
            "file": ', secret_files = "/run/secrets" those below a directory',
            "env": ', secret_variables = "ENTREPOT_SECRET_" those that begin so',
        }
        raise _refusal(
            f"Secret identifiers of the kind {kind}: are not taken over TCP.",
            f'secret_kinds = ["{kind}"] allows them{besides.get(kind, "")}',
            field,
        )


DEFAULT_OVER_TCP: Final = PermittedIdentifiers()
"""What the API on TCP takes where the settings say nothing else."""

EVERY_IDENTIFIER: Final = PermittedIdentifiers(kinds=None)
"""What the Unix socket takes: who may open it is the engine's own user."""


def _refusal(what: str, setting: str, field: str | None) -> SecretKindNotAllowed:
    hint = f"Make the credential set on the engine's machine, or let its administrator change settings.toml: below [management] {setting}."
    return SecretKindNotAllowed(what, hint, field=field)


def _is_below(place: str, directory: Path) -> bool:
    # A link in the directory may lead out of it, and so may "..": what counts is the file that
    # would be read.
    root = os.path.realpath(directory)
    found = os.path.realpath(place)
    return found != root and os.path.commonpath([root, found]) == root
