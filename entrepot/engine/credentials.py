"""Credential sets: create, change, delete and try them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from entrepot.api.models import (
    CredentialSetSnapshot,
    DeletionPlan,
    TriedSignIn,
)
from entrepot.cache.cache import ArtifactCache
from entrepot.config.documents import Documents
from entrepot.core.credentials import (
    CredentialBook,
    CredentialHealth,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetInUse,
    CredentialSetVerdict,
)
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import RuleBook
from entrepot.engine.credential_checks import CredentialChecks
from entrepot.engine.repositories import NAMES_IN_PREVIEW
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog


class CredentialService:
    """The credential sets of one engine."""

    def __init__(
        self,
        *,
        registries: SourceRegistries,
        documents: Documents,
        cache: ArtifactCache,
        checks: CredentialChecks,
        events: EventLog,
    ) -> None:
        self._registries = registries
        self._documents = documents
        self._cache = cache
        self._checks = checks
        self._events = events

    @property
    def book(self) -> CredentialBook:
        """The credential sets in force."""
        return self._documents.credential_sets

    def health(self, name: str) -> CredentialHealth:
        """How the last sign-in with a credential set went."""
        return self._checks.health(name)

    def health_of_all(self) -> Hashable:
        """The health of all credential sets, to compare with that of a moment ago."""
        return tuple(self.health(credential_set.name) for credential_set in self.book)

    def list(self) -> Sequence[CredentialSetSnapshot]:
        """All credential sets, by name, with their health."""
        used_by: dict[str, list[str]] = {}
        for rule in self._documents.rules:
            if rule.credential_set is not None:
                used_by.setdefault(rule.credential_set, []).append(rule.name)
        return [
            self._snapshot(credential_set, used_by.get(credential_set.name, ()))
            for credential_set in self.book
        ]

    def get(self, name: str) -> CredentialSetSnapshot:
        """One credential set with its health; raises `CredentialSetNotFound`."""
        credential_set = self.book.get(name)
        users = self._documents.rules.using(credential_set.name)
        return self._snapshot(credential_set, [rule.name for rule in users])

    def _snapshot(
        self, credential_set: CredentialSet, used_by: Iterable[str]
    ) -> CredentialSetSnapshot:
        health = self.health(credential_set.name)
        return CredentialSetSnapshot(
            name=credential_set.name,
            login_server=credential_set.login_server,
            username_id=str(credential_set.username),
            password_id=str(credential_set.password),
            created=credential_set.created.timestamp(),
            health=health.status,
            error_code=health.error_code,
            error_message=health.error_message,
            checked=health.checked.timestamp() if health.checked else None,
            used_by=tuple(used_by),
        )

    async def create(self, draft: CredentialSetDraft) -> CredentialSet:
        """Create a credential set and try it.

        An unhealthy one is still created, as in ACR. Raises a refusal, and then nothing is changed.
        """
        credential_set = await self._documents.create_credential_set(draft)
        self._events.record(
            EventKind.CREDENTIAL_SET_CREATED,
            f"Credential set {credential_set.name} for {credential_set.login_server}.",
            credential_set.name,
        )
        self._checks.check_soon(credential_set.name)
        return credential_set

    def validate(self, draft: CredentialSetDraft) -> CredentialSetVerdict:
        """What is wrong with the draft of a new credential set.

        The draft may be incomplete: only what is written so far is checked.
        """
        return self.book.validate(draft)

    async def update(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialSet:
        """Change where a credential set's secrets are kept, and try it.

        Raises `CredentialSetNotFound` or another refusal.
        """
        credential_set = await self._documents.update_credential_set(
            name, username_id=username_id, password_id=password_id
        )
        self._cache.forget_failures()
        self._events.record(
            EventKind.CREDENTIAL_SET_UPDATED,
            f"Credential set {credential_set.name} is changed.",
            credential_set.name,
        )
        self._checks.check_soon(credential_set.name)
        return credential_set

    async def delete(self, name: str) -> None:
        """Delete a credential set.

        Raises `CredentialSetNotFound`, or `CredentialSetInUse` when a rule uses it.
        """
        await self._documents.delete_credential_set(name)
        self._events.record(
            EventKind.CREDENTIAL_SET_DELETED, f"Credential set {name} is deleted.", name
        )

    def preview_delete(self, name: str) -> DeletionPlan:
        """What prevents the deletion of a credential set.

        Raises `CredentialSetNotFound`.
        """
        sets, rules = self.book, self._documents.rules
        credential_set = sets.get(name)
        refusal = self._documents.problem or _in_use(rules, sets.without(name))
        return DeletionPlan(
            kind="credentialSet",
            name=credential_set.name,
            refused_code=refusal.code if refusal is not None else None,
            refused=refusal.message if refusal is not None else None,
            used_by=tuple(rule.name for rule in rules.using(credential_set.name))[
                :NAMES_IN_PREVIEW
            ],
        )

    async def test_sign_in(self, draft: CredentialSetDraft) -> TriedSignIn:
        """Sign in once with the draft of a new or changed credential set.

        Nothing of it is stored. Raises a refusal when there can be no such set.
        """
        # In a book without others every name is free, that of the set to be changed too.
        credential_set = CredentialBook(self._registries).parse(draft)
        health = await self._checks.sign_in(credential_set)
        return TriedSignIn(
            health=health.status,
            error_code=health.error_code,
            error_message=health.error_message,
        )

    async def verify(self, name: str) -> CredentialSetSnapshot:
        """Sign in with a credential set now, and record the result as its health.

        Raises `CredentialSetNotFound`.
        """
        await self._checks.verify(name)
        return self.get(name)


def _in_use(rules: RuleBook, sets: CredentialBook) -> CredentialSetInUse | None:
    try:
        rules.with_credential_sets(sets)
    except CredentialSetInUse as refusal:
        return refusal
    return None
