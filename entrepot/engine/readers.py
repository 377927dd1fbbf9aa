"""Who can sign in at the registry, and who may read what."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from entrepot.api.reader_models import (
    CreatedToken,
    ReaderList,
    ReaderSnapshot,
    TokenSnapshot,
)
from entrepot.config.directories import Directories
from entrepot.config.document_files import Signature, current_signature
from entrepot.config.documents import Documents
from entrepot.config.htpasswd import HtpasswdInvalid, read_htpasswd
from entrepot.config.settings import Settings
from entrepot.config.token_document import TokenDocument, read_token_uses, write_token_uses
from entrepot.core.readable_rules import ReadableRules
from entrepot.core.readers import ANONYMOUS, Reader
from entrepot.core.rules import CacheRule
from entrepot.core.tokens import PersonalToken
from entrepot.engine.passwords import FREE_GUESSES, PasswordCheck, TooManyGuesses
from entrepot.engine.signed_tokens import LIFETIME, Claims, TokenSigner
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.formatting import counted

INTERVAL: Final = 2.0
"""Seconds between two looks at the password file and the document of tokens."""

USES_INTERVAL: Final = 300.0
"""Seconds between two writes of when tokens were used last."""

THROTTLED_MARK: Final = 30.0
"""Seconds for which a signed token says, at least, that credentials were sent and not checked: in
them the client comes with it."""

_log = logging.getLogger("entrepot.readers")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A reader who signed in, or one with a signed token for readers who did not."""

    reader: Reader
    claims: Claims
    """What a signed token of the reader says."""
    scopes: tuple[str, ...] | None = None
    """The repositories to which a signed token is bound; None: no signed token was sent."""


class ReaderService:
    """The readers of one engine."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        documents: Documents,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._documents = documents
        self._clock = clock
        self._events: EventLog | None = None
        self._tokens = TokenDocument(directories.tokens)
        self._uses_file = directories.token_uses
        self._uses: dict[str, float] = {}
        self._uses_written: dict[str, float] = {}
        self._htpasswd = settings.readers.htpasswd if settings.readers is not None else None
        self._htpasswd_signature: Signature = None
        self._htpasswd_problem: HtpasswdInvalid | None = None
        self._passwords = PasswordCheck(monotonic, self._guesses_slowed)
        self._signer = TokenSigner(clock)
        self._groups = _groups_by_reader(settings)
        self.revision = 0
        """Grows with every change of the readers and tokens."""

    async def load(self) -> None:
        """Read password file and tokens at the start.

        Raises `HtpasswdInvalid` or `DocumentInvalid`, with file and line.
        """
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        self._tokens.load()
        self._uses = self._uses_written = read_token_uses(self._uses_file)
        self._uses = dict(self._uses)
        if self._htpasswd is not None:
            self._htpasswd_signature = current_signature(self._htpasswd)
            self._passwords.use(read_htpasswd(self._htpasswd))

    # Who may read what: `entrepot.cache.access.ReaderPolicy`

    @property
    def anonymous_may_read(self) -> bool:
        """Whether readers who do not sign in may read rules that say nothing about readers."""
        return self._settings.anonymous_may_read

    @property
    def can_sign_in(self) -> bool:
        """Whether there is any reader who can sign in."""
        return self._settings.readers is not None or bool(len(self._tokens.book))

    def admits(self, repository: str, reader: Reader) -> bool:
        """Whether a reader may read a repository, if it exists."""
        return self._documents.access(repository).admits(
            reader, allow_anonymous=self.anonymous_may_read
        )

    def admits_rule(self, rule: CacheRule, reader: Reader) -> bool:
        """Whether a reader may read what a rule caches."""
        return rule.access.admits(reader, allow_anonymous=self.anonymous_may_read)

    @property
    def anonymous_may_read_something(self) -> bool:
        """Whether readers who do not sign in may read any rule."""
        allow = self.anonymous_may_read
        return allow or any(
            rule.access.admits_anonymous(allow_anonymous=allow) for rule in self._documents.rules
        )

    # Sign-in

    async def of_credentials(
        self, name: str, password: str, address: str | None
    ) -> SignedIn | None:
        """The reader with a name and a password.

        A personal token is a password for every name. None where they are wrong. Raises
        `TooManyGuesses`.
        """
        token = self._tokens.book.of_secret(password) or self._tokens.book.of_secret(name)
        if token is not None:
            return self._of_token(token)
        if self._htpasswd is None or not await self._passwords.is_right(name, password, address):
            return None
        version = self._passwords.fingerprint(name) or ""
        return SignedIn(self._reader(name), Claims(name, 0.0, version=version))

    def of_bearer(self, secret: str) -> SignedIn | None:
        """The reader with a personal token, or with a token that this engine signed.

        None where it is not valid any more.
        """
        token = self._tokens.book.of_secret(secret)
        if token is not None:
            return self._of_token(token)
        claims = self._signer.read(secret)
        if claims is None:
            return None
        if not claims.name:
            return SignedIn(ANONYMOUS, claims, claims.scopes)
        if claims.personal_token:
            token = self._tokens.book.of_hash(claims.personal_token)
            signed_in = self._of_token(token) if token is not None else None
            return replace(signed_in, scopes=claims.scopes) if signed_in is not None else None
        if claims.version != self._passwords.fingerprint(claims.name):
            return None
        return SignedIn(self._reader(claims.name), claims, claims.scopes)

    def sign(self, claims: Claims, scopes: Sequence[str]) -> tuple[str, int]:
        """A signed token for some repositories, and the seconds for which it is valid."""
        signed = Claims(
            claims.name,
            self._clock() + LIFETIME,
            tuple(scopes),
            claims.version,
            claims.personal_token,
            claims.throttled_until,
        )
        return self._signer.sign(signed), LIFETIME

    def throttled_claims(self, throttled: TooManyGuesses) -> Claims:
        """What the token says of a client whose credentials were not checked."""
        wait = max(THROTTLED_MARK, throttled.retry_after)
        return Claims("", 0.0, throttled_until=self._clock() + wait)

    def throttle_of(self, claims: Claims) -> TooManyGuesses | None:
        """Why a token is that of a reader who did not sign in, where guesses are the cause."""
        wait = claims.throttled_until - self._clock()
        return TooManyGuesses(max(1, round(wait))) if wait > 0 else None

    def _of_token(self, token: PersonalToken) -> SignedIn | None:
        now = self._clock()
        if not token.is_valid(now):
            return None
        self._uses[token.sha256] = now
        return SignedIn(
            self._reader(token.name, token.groups),
            Claims(token.name, 0.0, personal_token=token.sha256),
        )

    def _reader(self, name: str, groups: Sequence[str] = ()) -> Reader:
        return Reader(name, self._groups.get(name, frozenset()).union(groups))

    # Tokens

    def tokens(self) -> Sequence[TokenSnapshot]:
        """All personal tokens, by name."""
        return [self._token_snapshot(token) for token in self._tokens.book]

    def _token_snapshot(self, token: PersonalToken) -> TokenSnapshot:
        return TokenSnapshot(
            name=token.name,
            created=token.created.timestamp(),
            expires=token.expires.timestamp() if token.expires is not None else None,
            expired=not token.is_valid(self._clock()),
            groups=token.groups,
            last_used=self._uses.get(token.sha256),
        )

    async def create_token(
        self, name: str, *, lifetime: str | None = None, groups: Sequence[str] = ()
    ) -> CreatedToken:
        """Create a personal token. It is in the answer, and nowhere else. Raises a `Refusal`."""
        token, secret = await asyncio.to_thread(
            self._tokens.create,
            name,
            lifetime=lifetime,
            groups=tuple(groups),
            now=datetime.fromtimestamp(self._clock(), UTC),
        )
        self.revision += 1
        self._record(EventKind.TOKEN_CREATED, f"Personal token {token.name} is created.")
        return CreatedToken(token=self._token_snapshot(token), secret=secret)

    async def revoke_token(self, name: str) -> None:
        """Revoke a personal token at once; raises `TokenNotFound` or another `Refusal`."""
        token = await asyncio.to_thread(self._tokens.revoke, name)
        self.revision += 1
        self._record(EventKind.TOKEN_REVOKED, f"Personal token {token.name} is revoked.")

    # Who is known

    async def list(self) -> ReaderList:
        """All readers by name, and what each may read.

        The work grows with what is listed, and is done in a thread.
        """
        return await asyncio.to_thread(
            self._list, list(self._tokens.book), self._passwords.names, self._documents.rules
        )

    def _list(
        self,
        tokens: Sequence[PersonalToken],
        names_with_password: Sequence[str],
        rules: Iterable[CacheRule],
    ) -> ReaderList:
        readable = ReadableRules(rules, allow_anonymous=self.anonymous_may_read)
        with_password = frozenset(names_with_password)
        tokens_by_name: dict[str, list[PersonalToken]] = {}
        for token in tokens:
            tokens_by_name.setdefault(token.name, []).append(token)

        def snapshot(name: str) -> ReaderSnapshot:
            own_tokens = tokens_by_name.get(name, [])
            groups = [group for token in own_tokens for group in token.groups]
            reader = self._reader(name, groups)
            return ReaderSnapshot(
                name=name,
                password=name in with_password,
                token=bool(own_tokens),
                groups=tuple(sorted(reader.groups)),
                rules=readable.of(reader),
            )

        names = {*with_password, *self._groups, *tokens_by_name}
        return ReaderList(
            anonymous_may_read=self.anonymous_may_read,
            can_sign_in=self.can_sign_in,
            anonymous_rules=readable.of(ANONYMOUS),
            readers=tuple(snapshot(name) for name in sorted(names, key=str.casefold)),
        )

    def known_names(self) -> frozenset[str]:
        """The names of all readers who can sign in, and of all groups with ``@``."""
        tokens = list(self._tokens.book)
        groups = {group for token in tokens for group in token.groups}
        if self._settings.readers is not None:
            groups.update(self._settings.readers.groups)
        return frozenset(
            {
                *self._passwords.names,
                *(token.name for token in tokens),
                *(f"@{group}" for group in groups),
            }
        )

    @property
    def password_file(self) -> Path | None:
        """The password file."""
        return self._htpasswd

    def names_cheaper_than(self, cost: int) -> Sequence[str]:
        """The names whose passwords are hashed at a lower bcrypt cost."""
        return self._passwords.cheaper_than(cost)

    # Hand edits

    def problems(self) -> Sequence[EntrepotError]:
        """Why the password file or the tokens on the disk are not in force."""
        return [
            problem
            for problem in (self._htpasswd_problem, self._tokens.problem)
            if problem is not None
        ]

    async def run(self, events: EventLog) -> None:
        """Read what was edited by hand, and write when tokens were used, until cancelled."""
        self._events = events
        written = time.monotonic()
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.reload_if_changed()
                if time.monotonic() - written > USES_INTERVAL:
                    written = time.monotonic()
                    await self.write_uses()
            except Exception:
                _log.exception("The readers could not be looked at")

    async def close(self) -> None:
        """Write when tokens were used last."""
        await self._passwords.close()
        await self.write_uses()

    async def write_uses(self) -> None:
        """Write when tokens were used last, where that has changed."""
        hashes = {token.sha256 for token in self._tokens.book}
        uses = {sha256: used for sha256, used in self._uses.items() if sha256 in hashes}
        if uses == self._uses_written:
            return
        try:
            await asyncio.to_thread(write_token_uses, self._uses_file, uses)
        except OSError as error:
            _log.warning("When tokens were used last can't be written: %s", error.strerror)
            return
        self._uses_written = uses

    async def reload_if_changed(self) -> None:
        """Put an edit of the password file or the tokens in force, or say why not."""
        before = self._htpasswd_problem, self._tokens.problem
        hashes, are_tokens_new = await asyncio.to_thread(self._read_changes)
        if hashes is not None:
            self._passwords.use(hashes)
        if hashes is not None or are_tokens_new:
            self.revision += 1
        for problem, old in zip(
            (self._htpasswd_problem, self._tokens.problem), before, strict=True
        ):
            if problem is not None and problem is not old:
                self._record(EventKind.READERS_REFUSED, problem.message, Severity.ERROR)
        if hashes is not None:
            self._record(
                EventKind.READERS_READ,
                f"The password file has been read: {counted(len(hashes), 'reader')}.",
            )
        if are_tokens_new and self._tokens.problem is None:
            self._record(
                EventKind.READERS_READ,
                "The personal tokens were edited by hand and have been read.",
            )

    def _read_changes(self) -> tuple[Mapping[str, bytes] | None, bool]:
        return self._read_htpasswd(self._htpasswd), self._tokens.reload_if_changed()

    def _read_htpasswd(self, file: Path | None) -> Mapping[str, bytes] | None:
        if file is None:
            return None
        signature = current_signature(file)
        if signature == self._htpasswd_signature:
            return None
        self._htpasswd_signature = signature
        try:
            hashes = read_htpasswd(file, may_be_empty=not self._passwords.names)
        except HtpasswdInvalid as invalid:
            self._htpasswd_problem = HtpasswdInvalid(
                invalid.what, f"{invalid.hint} Until then, what was read before stays in force."
            )
            return None
        self._htpasswd_problem = None
        return hashes

    def _guesses_slowed(self, address: str) -> None:
        self._record(
            EventKind.GUESSES_SLOWED,
            f"More than {FREE_GUESSES} wrong passwords came from {address or 'a local client'}: "
            "further sign-ins from there have to wait. The log names those who were refused.",
            Severity.WARNING,
        )

    def _record(self, kind: EventKind, message: str, severity: Severity = Severity.INFO) -> None:
        if self._events is not None:
            self._events.record(kind, message, severity=severity)


def _groups_by_reader(settings: Settings) -> Mapping[str, frozenset[str]]:
    groups: dict[str, frozenset[str]] = {}
    if settings.readers is not None:
        for group, members in settings.readers.groups.items():
            for member in members:
                groups[member] = groups.get(member, frozenset()) | {group}
    return groups
