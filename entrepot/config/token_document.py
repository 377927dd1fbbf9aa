"""``tokens.toml``: the personal tokens, replaced whole, and read again after an edit by hand.

It has hashes and never a token. When each was used last is written beside what is cached, because
that changes often and may be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import tomli_w

from entrepot.config.document_files import (
    DocumentInvalid,
    DocumentProblem,
    Signature,
    current_signature,
    read_document,
    read_only_error,
    write_document,
    write_obstacle,
)
from entrepot.core.tokens import PersonalToken, TokenBook, new_secret, new_token, read_token
from entrepot.errors import Refusal
from entrepot.files import replace_file
from entrepot.toml import TomlDocument, TomlInvalid

_HEADER: Final = """\
# The personal tokens of Entrepot: only hashes, from which no token can be found.
#
# The engine replaces this file whole whenever a token is created or revoked. A token whose entry is
# deleted by hand is revoked within seconds.
"""

_FIX: Final = "Fix the file: until then, the tokens that were read before stay in force."


class _TokenRow(msgspec.Struct, kw_only=True):
    name: str
    sha256: str
    created: datetime | None = None
    expires: datetime | None = None
    groups: tuple[str, ...] = ()


class TokenDocument:
    """The personal tokens of one engine. Its methods block."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._signature: Signature = None
        self.book = TokenBook()
        self.problem: DocumentInvalid | None = None
        """Why the file is not in force; None when it is."""

    def load(self) -> None:
        """Read the file at the start; a missing one is empty. Raises `DocumentInvalid`."""
        with self._lock:
            self.book, self._signature = self._read("Fix the file and start again.")

    def reload_if_changed(self) -> bool:
        """Put an edit by hand in force; return whether something has changed.

        Where it can't be used, `problem` says why, and the tokens in force stay.
        """
        with self._lock:
            signature = current_signature(self._file)
            if signature == self._signature:
                return False
            before, problem = self.book, self.problem
            try:
                self.book, self._signature = self._read(_FIX)
                self.problem = None
            except DocumentInvalid as invalid:
                self._signature, self.problem = signature, invalid
                return True
            return before != self.book or problem is not None

    def create(
        self, name: str, *, lifetime: str | None, groups: tuple[str, ...], now: datetime
    ) -> tuple[PersonalToken, str]:
        """Create a token; return it with its secret, which is nowhere else.

        Raises a `Refusal` or `EngineError`, and then nothing is changed.
        """
        secret = new_secret()
        token = new_token(name, secret, lifetime=lifetime, groups=groups, now=now)
        self._change(lambda book: book.with_token(token))
        return token, secret

    def revoke(self, name: str) -> PersonalToken:
        """Revoke a token; raises `TokenNotFound`, another `Refusal` or `EngineError`."""
        revoked: list[PersonalToken] = []

        def change(book: TokenBook) -> TokenBook:
            revoked.append(book.get(name))
            return book.without(name)

        self._change(change)
        return revoked[0]

    def _change(self, change: Callable[[TokenBook], TokenBook]) -> None:
        with self._lock:
            if self.problem is not None:
                raise self.problem
            if current_signature(self._file) != self._signature:
                self.book, self._signature = self._read(_FIX)
            book = change(self.book)
            if (obstacle := write_obstacle(self._file)) is not None:
                raise read_only_error(self._file, *obstacle)
            self._signature = write_document(self._file, _render(book))
            self.book = book

    def _read(self, hint: str) -> tuple[TokenBook, Signature]:
        def invalid(line: int | None, entry: str | None, what: str) -> DocumentInvalid:
            problem = DocumentProblem(self._file, line, entry, what, DocumentInvalid.code)
            return DocumentInvalid((problem,), hint)

        try:
            content, signature = read_document(self._file)
        except OSError as error:
            raise invalid(None, None, f"It can't be read: {error.strerror}.") from None
        book = TokenBook()
        try:
            document = TomlDocument(content or b"")
            for unknown in document.unknown_keys(("tokens",)):
                raise unknown
            for entry in document.table_entries("tokens", _TokenRow, noun="token"):
                name = f"token {entry.name}"
                for misfit in (*entry.unknown_keys, entry.misfit):
                    if misfit is not None:
                        raise invalid(entry.line, name, misfit.what)
                assert entry.row is not None
                row = entry.row
                try:
                    token = read_token(row.name, row.sha256, row.created, row.expires, row.groups)
                    book = book.with_token(token)
                except Refusal as refusal:
                    raise invalid(entry.line, name, refusal.message) from None
        except TomlInvalid as error:
            raise invalid(error.line, None, error.what) from None
        return book, signature


def _render(book: TokenBook) -> bytes:
    parts = [_HEADER]
    for token in book:
        values: dict[str, object] = {"name": token.name, "sha256": token.sha256}
        if token.groups:
            values["groups"] = list(token.groups)
        parts.append(f"\n[[tokens]]\n{tomli_w.dumps(values)}created = {_time(token.created)}\n")
        if token.expires is not None:
            parts.append(f"expires = {_time(token.expires)}\n")
    return "".join(parts).encode()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def read_token_uses(file: Path) -> dict[str, float]:
    """When each token was used last, by its hash; empty where the file can't be used."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}


def write_token_uses(file: Path, uses: Mapping[str, float]) -> None:
    """Write when each token was used last; raises OSError."""
    replace_file(file, msgspec.json.encode(dict(uses)))
