"""Credential sets: how to sign in to a source registry. Pure: no I/O.

They hold identifiers of secrets, never the secrets themselves. The limits are those of ACR's
credential sets (Azure REST specification, CredentialSet.tsp), and what Entrepot decides beyond
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from entrepot.core.book import Book, Candidate, parse_name, to_the_second
from entrepot.core.registries import CredentialsNotTaken, SourceRegistries, SourceRegistry
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.core.states import HealthStatus, SignIn
from entrepot.errors import NotFound, Refusal


class CredentialSetNameTaken(Refusal):
    """A credential set of that name exists, without regard to case."""

    code = "CredentialSetAlreadyExists"
    status = 409


class CredentialSetInUse(Refusal):
    """A credential set that a cache rule uses can't be deleted."""

    code = "CredentialSetInUse"
    status = 409


class CredentialSetNotFound(NotFound):
    """No credential set has that name."""

    code = "CredentialSetNotFound"


class CredentialSetsInvalid(Refusal):
    """Several credential sets, read together, break a limit.

    ``refusals`` holds what is wrong with which (by position, from 0).
    """

    code = "CredentialSetsInvalid"

    def __init__(self, refusals: tuple[tuple[int, Refusal], ...]) -> None:
        super().__init__(" ".join(refusal.message for _, refusal in refusals))
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """A login server, and where the user name and the password for it are kept."""

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
    """A credential set as a person types it.

    None is what was left out: `CredentialBook.parse` asks for it, `CredentialBook.validate` does
    not judge it.
    """

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


class CredentialBook(Book[CredentialSet]):
    """All credential sets, with the limits between them.

    An immutable value: each change gives a new book.
    """

    __slots__ = ("_registries",)

    def __init__(self, registries: SourceRegistries) -> None:
        """An empty book."""
        super().__init__()
        self._registries = registries

    @classmethod
    def read(
        cls, drafts: Iterable[tuple[CredentialSetDraft, datetime]], registries: SourceRegistries
    ) -> CredentialBook:
        """A book of drafts with their times of creation; raises `CredentialSetsInvalid`."""
        book = cls(registries)
        refusals: list[tuple[int, Refusal]] = []
        for position, (draft, created) in enumerate(drafts):
            candidate = book.candidate(draft)
            refusals += [(position, refusal) for refusal in candidate.refusals]
            if not candidate.refusals:
                credential_set = candidate.credential_set(created)
                book._items[credential_set.name.casefold()] = credential_set
        if refusals:
            raise CredentialSetsInvalid(tuple(refusals))
        return book

    def candidate(
        self, draft: CredentialSetDraft, *, complete: bool = True
    ) -> CredentialSetCandidate:
        """Read a draft against this book."""
        return CredentialSetCandidate(draft, self, self._registries, complete=complete)

    def parse(self, draft: CredentialSetDraft, *, created: datetime | None = None) -> CredentialSet:
        """The credential set that *draft* describes; raises the first `Refusal`.

        The secrets are not read.
        """
        candidate = self.candidate(draft)
        candidate.require_valid()
        return candidate.credential_set(created or datetime.now(UTC))

    def validate(self, draft: CredentialSetDraft) -> CredentialSetVerdict:
        """Everything that is wrong with a draft of which parts may be missing."""
        return CredentialSetVerdict(tuple(self.candidate(draft, complete=False).refusals))

    def with_set(self, credential_set: CredentialSet) -> CredentialBook:
        """The book with one more set, which `parse` gave; raises `CredentialSetNameTaken`."""
        self.require_free_name(credential_set.name)
        return self._with(credential_set)

    def with_identifiers(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialBook:
        """The book with other secret identifiers in a set; None leaves one as it is.

        Nothing else of a set can change. Raises `CredentialSetNotFound` or
        `SecretIdentifierInvalid`.
        """
        credential_set = self.get(name)
        username = (
            credential_set.username
            if username_id is None
            else SecretIdentifier.parse(username_id, field="usernameSecretIdentifier")
        )
        password = (
            credential_set.password
            if password_id is None
            else SecretIdentifier.parse(password_id, field="passwordSecretIdentifier")
        )
        return self._with(replace(credential_set, username=username, password=password))

    def without(self, name: str) -> CredentialBook:
        """The book without a set; raises `CredentialSetNotFound`.

        Whether a rule uses it is for `RuleBook.with_credential_sets` to say.
        """
        removed_key = self.get(name).name.casefold()
        book = CredentialBook(self._registries)
        book._items = {
            key: credential_set for key, credential_set in self._items.items() if key != removed_key
        }
        return book

    def get(self, name: str) -> CredentialSet:
        """The set of that name, without regard to case; raises `CredentialSetNotFound`."""
        credential_set = self.find(name)
        if credential_set is None:
            hint = (
                f"There are: {', '.join(credential_set.name for credential_set in self)}."
                if len(self)
                else "There is none yet: create one first."
            )
            raise CredentialSetNotFound(f"There is no credential set {name}.", hint)
        return credential_set

    def require_free_name(self, name: str) -> None:
        """Raise `CredentialSetNameTaken` if a set has that name."""
        credential_set = self.find(name)
        if credential_set is not None:
            raise CredentialSetNameTaken(
                f"There is a credential set {credential_set.name} already.",
                "Choose another name; capitals and small letters count as equal.",
                field="name",
            )

    def for_login_server(self, login_server: str) -> tuple[CredentialSet, ...]:
        """The sets for a login server in its normal form, by name."""
        return tuple(
            credential_set for credential_set in self if credential_set.login_server == login_server
        )

    def _with(self, credential_set: CredentialSet) -> CredentialBook:
        book = CredentialBook(self._registries)
        book._items = {**self._items, credential_set.name.casefold(): credential_set}
        return book


class CredentialSetCandidate(Candidate):
    """A credential set draft, read against a book.

    Each part is None where it is refused.
    """

    def __init__(
        self,
        draft: CredentialSetDraft,
        book: CredentialBook,
        registries: SourceRegistries,
        *,
        complete: bool,
    ) -> None:
        super().__init__(complete=complete)

        def free_name(text: str) -> str:
            name = parse_name(text, "credential set")
            book.require_free_name(name)
            return name

        self.name = self._read(draft.name, free_name)
        self.registry = self._read(
            draft.login_server, lambda text: _registry_with_sign_in(registries, text)
        )
        self.username = self._read(
            draft.username_id,
            lambda text: SecretIdentifier.parse(text, field="usernameSecretIdentifier"),
        )
        self.password = self._read(
            draft.password_id,
            lambda text: SecretIdentifier.parse(text, field="passwordSecretIdentifier"),
        )

    def describes(self, credential_set: CredentialSet) -> bool:
        """Whether the draft has the login server and the identifiers of a credential set."""
        return (
            self.registry is not None
            and self.registry.login_server == credential_set.login_server
            and self.username == credential_set.username
            and self.password == credential_set.password
        )

    def credential_set(self, created: datetime) -> CredentialSet:
        """The credential set of a draft without refusals."""
        assert self.name is not None
        assert self.registry is not None
        assert self.username is not None
        assert self.password is not None
        return CredentialSet(
            self.name,
            self.registry.login_server,
            self.username,
            self.password,
            to_the_second(created),
        )


def _registry_with_sign_in(registries: SourceRegistries, text: str) -> SourceRegistry:
    """The source registry of a login server.

    Raises a `Refusal` where it takes no credentials.
    """
    registry = registries.find(text, field="loginServer")
    if registry.sign_in is SignIn.NONE:
        raise CredentialsNotTaken(
            f"{registry.name} ({registry.login_server}) takes no credentials: all its pulls are "
            "unauthenticated.",
            "Create the cache rule without a credential set.",
            field="loginServer",
        )
    return registry
