"""Which rule answers for a repository, and with which sign-in its source is asked."""

from __future__ import annotations

from entrepot.config.documents import Documents
from entrepot.core.rules import Route
from entrepot.source.client import SourceClient
from entrepot.source.sources import Sources


class Routing:
    """The rules and credential sets in force, as the cache needs them."""

    def __init__(self, documents: Documents, sources: Sources) -> None:
        self._documents = documents
        self._sources = sources

    def route(self, repository: str) -> Route | None:
        """The rule that answers for a repository, and where it leads; None if none does."""
        return self._documents.rules.route(repository)

    def client(self, route: Route) -> SourceClient:
        """The source registry of a route, signed in with the credential set of its rule."""
        name = route.rule.credential_set
        credential_set = self._documents.credential_sets.get(name) if name is not None else None
        return self._sources.client(route.registry, credential_set)
