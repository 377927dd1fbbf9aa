"""Credential sets: how to sign in to a source registry, as identifiers of secrets and never as the
secrets themselves.

Pure: no I/O. The limits are those of ACR's credential sets (Azure REST specification,
CredentialSet.tsp), and what Entrepot decides beyond them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from entrepot.core.reference import quoted
from entrepot.core.registries import SourceRegistries, SourceRegistry, UpstreamTakesNoCredentials
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.core.states import HealthStatus, SignIn
from entrepot.errors import NameInvalid, NotFound, Refusal

_NAME = re.compile(r"[A-Za-z0-9-]{5,50}")
_NO_NAME = re.compile(r"[^A-Za-z0-9-]")

Value = TypeVar("Value")


class CredentialSetNameTaken(Refusal):
    """There is a credential set of that name, without regard to case."""

    code = "CredentialSetAlreadyExists"
    status = 409


class CredentialSetInUse(Refusal):
    """A credential set that a cache rule uses can't be deleted."""

    code = "CredentialSetInUse"
    status = 409


class CredentialSetNotFound(NotFound):
    """There is no credential set of that name."""

    code = "CredentialSetNotFound"


class CredentialSetsInvalid(Refusal):
    """Several credential sets, read together, can't stand; ``refusals`` holds what is wrong with
    which (by position, from 0)."""

    code = "CredentialSetsInvalid"

    def __init__(self, refusals: tuple[tuple[int, Refusal], ...]) -> None:
        super().__init__(" ".join(refusal.message for _, refusal in refusals))
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """A name, a login server, and where the user name and the password for it are kept."""

    name: str
    login_server: str
    username: SecretIdentifier
    password: SecretIdentifier
    created: datetime
    """In UTC, to the second."""

    @property
    def draft(self) -> CredentialSetDraft:
        """As a person would type it."""
        return CredentialSetDraft(
            self.name, self.login_server, str(self.username), str(self.password)
        )


@dataclass(frozen=True, slots=True)
class CredentialSetDraft:
    """A credential set as a person types it. None is what was left out: `CredentialBook.check` asks
    for it, `CredentialBook.problems` does not judge it."""

    name: str | None = None
    login_server: str | None = None
    username_id: str | None = None
    password_id: str | None = None


@dataclass(frozen=True, slots=True)
class CredentialHealth:
    """How the last sign-in with a credential set went; ``checked`` is in UTC."""

    status: HealthStatus = HealthStatus.UNKNOWN
    error_code: str | None = None
    error_message: str | None = None
    checked: datetime | None = None


@dataclass(frozen=True, slots=True)
class CredentialSetVerdict:
    """A credential set draft as a book judges it."""

    problems: tuple[Refusal, ...]
    """In the order of the fields."""


class CredentialBook:
    """All credential sets, with the limits that hold between them. An immutable value: each change
    gives a new book."""

    __slots__ = ("_registries", "_sets")

    def __init__(self, registries: SourceRegistries) -> None:
        """An empty book."""
        self._registries = registries
        self._sets: dict[str, CredentialSet] = {}

    @classmethod
    def of(cls, sets: Iterable[CredentialSet], registries: SourceRegistries) -> CredentialBook:
        """A book of *sets*; raises `CredentialSetsInvalid` with all that is wrong."""
        return cls.read(((each.draft, each.created) for each in sets), registries)

    @classmethod
    def read(
        cls, drafts: Iterable[tuple[CredentialSetDraft, datetime]], registries: SourceRegistries
    ) -> CredentialBook:
        """A book of drafts with their times of creation; raises `CredentialSetsInvalid` with all
        that is wrong."""
        book = cls(registries)
        refusals: list[tuple[int, Refusal]] = []
        for position, (draft, created) in enumerate(drafts):
            judged = _Judged(draft, book, complete=True)
            refusals += [(position, refusal) for refusal in judged.refusals]
            if not judged.refusals:
                made = judged.credential_set(created)
                book._sets[made.name.casefold()] = made
        if refusals:
            raise CredentialSetsInvalid(tuple(refusals))
        return book

    def check(self, draft: CredentialSetDraft, *, created: datetime | None = None) -> CredentialSet:
        """The credential set that *draft* describes; raises the first `Refusal`. The secrets are
        not read."""
        judged = _Judged(draft, self, complete=True)
        if judged.refusals:
            raise judged.refusals[0]
        return judged.credential_set(created or datetime.now(UTC))

    def problems(self, draft: CredentialSetDraft) -> CredentialSetVerdict:
        """Everything that is wrong with a draft of which parts may be missing."""
        return CredentialSetVerdict(tuple(_Judged(draft, self, complete=False).refusals))

    def with_set(self, credential_set: CredentialSet) -> CredentialBook:
        """The book with one more set; raises a `Refusal` if it can't stand in it."""
        return self._with(self.check(credential_set.draft, created=credential_set.created))

    def with_identifiers(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialBook:
        """The book with other secret identifiers in a set, which is all that can change of one;
        None leaves one as it is.

        Raises `CredentialSetNotFound` or `SecretIdentifierInvalid`.
        """
        found = self.get(name)
        username = (
            found.username
            if username_id is None
            else SecretIdentifier.parse(username_id, field="usernameSecretIdentifier")
        )
        password = (
            found.password
            if password_id is None
            else SecretIdentifier.parse(password_id, field="passwordSecretIdentifier")
        )
        return self._with(replace(found, username=username, password=password))

    def without(self, name: str) -> CredentialBook:
        """The book without a set; raises `CredentialSetNotFound`. Whether a rule uses it is for
        `RuleBook.with_credential_sets` to say."""
        key = self.get(name).name.casefold()
        book = CredentialBook(self._registries)
        book._sets = {
            each: credential_set for each, credential_set in self._sets.items() if each != key
        }
        return book

    def get(self, name: str) -> CredentialSet:
        """The set of that name, without regard to case; raises `CredentialSetNotFound`."""
        found = self._sets.get(name.casefold())
        if found is None:
            raise CredentialSetNotFound(f"There is no credential set {name}.", self._names())
        return found

    def find(self, name: str) -> CredentialSet | None:
        """The set of that name, without regard to case, or None."""
        return self._sets.get(name.casefold())

    def for_login_server(self, login_server: str) -> tuple[CredentialSet, ...]:
        """The sets for a login server in its normal form, by name."""
        return tuple(each for each in self if each.login_server == login_server)

    def __iter__(self) -> Iterator[CredentialSet]:
        """By name."""
        return iter(sorted(self._sets.values(), key=lambda each: each.name.casefold()))

    def __len__(self) -> int:
        return len(self._sets)

    def __eq__(self, other: object) -> bool:
        return self._sets == other._sets if isinstance(other, CredentialBook) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _with(self, credential_set: CredentialSet) -> CredentialBook:
        book = CredentialBook(self._registries)
        book._sets = {**self._sets, credential_set.name.casefold(): credential_set}
        return book

    def _names(self) -> str:
        return (
            f"There are: {', '.join(each.name for each in self)}."
            if self._sets
            else "There is none yet: create one first."
        )


class _Judged:
    """A draft, held against a book: its parts as far as they can be read, and what is wrong with
    it, in the order of the fields."""

    def __init__(self, draft: CredentialSetDraft, book: CredentialBook, *, complete: bool) -> None:
        self.refusals: list[Refusal] = []
        self._complete = complete
        self._name = self._read(draft.name, lambda text: self._free_name(text, book))
        self._registry = self._read(
            draft.login_server, lambda text: _signing_in(book._registries, text)
        )
        self._username = self._read(
            draft.username_id,
            lambda text: SecretIdentifier.parse(text, field="usernameSecretIdentifier"),
        )
        self._password = self._read(
            draft.password_id,
            lambda text: SecretIdentifier.parse(text, field="passwordSecretIdentifier"),
        )

    def credential_set(self, created: datetime) -> CredentialSet:
        """What the draft describes, when nothing is wrong with it."""
        assert self._name is not None
        assert self._registry is not None
        assert self._username is not None
        assert self._password is not None
        return CredentialSet(
            self._name,
            self._registry.login_server,
            self._username,
            self._password,
            to_the_second(created),
        )

    def _read(self, text: str | None, read: Callable[[str], Value]) -> Value | None:
        if text is None and not self._complete:
            return None
        try:
            return read(text or "")
        except Refusal as refusal:
            self.refusals.append(refusal)
            return None

    @staticmethod
    def _free_name(text: str, book: CredentialBook) -> str:
        name = parse_name(text, "credential set")
        taken = book.find(name)
        if taken is not None:
            raise CredentialSetNameTaken(
                f"There is a credential set {taken.name} already.",
                "Choose another name; capitals and small letters count as equal.",
                field="name",
            )
        return name


def parse_name(text: str, what: str) -> str:
    """Check the name of a cache rule or a credential set (*what*); raises `NameInvalid`."""
    if _NAME.fullmatch(text):
        return text
    if not text:
        raise NameInvalid(
            f"The name of the {what} is missing.",
            "A name has 5 to 50 letters, digits and dashes.",
            field="name",
        )
    others = dict.fromkeys(_NO_NAME.findall(text))
    length = "1 character" if len(text) == 1 else f"{len(text)} characters"
    reason = " and ".join(map(quoted, list(others)[:3])) if others else length
    raise NameInvalid(
        f"{quoted(text)} can't be the name of a {what}.",
        f"A name has 5 to 50 letters (A to Z), digits and dashes; this one has {reason}.",
        field="name",
    )


def to_the_second(time: datetime) -> datetime:
    """*time* in UTC, to the second; a time without a zone is taken for UTC."""
    return (time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)).replace(
        microsecond=0
    )


def _signing_in(registries: SourceRegistries, text: str) -> SourceRegistry:
    registry = registries.find(text, field="loginServer")
    if registry.sign_in is SignIn.NONE:
        raise UpstreamTakesNoCredentials(
            f"{registry.name} ({registry.login_server}) takes no credentials: all its pulls are unauthenticated.",
            "Make the cache rule without a credential set.",
            field="loginServer",
        )
    return registry
