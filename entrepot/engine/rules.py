"""Cache rules: create, change, delete, import and match them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from entrepot.api.models import DeletionPlan, RuleMatch, RuleSnapshot
from entrepot.cache.cache import ArtifactCache
from entrepot.config.documents import Documents
from entrepot.config.settings import Settings
from entrepot.core.freshness import freshness_text
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import CredentialSetEntryResult, ImportResult
from entrepot.core.rule_lookup import match
from entrepot.core.rules import CacheRule, RuleBook, RuleDraft, RuleVerdict
from entrepot.core.states import CachedState, ImportOutcome
from entrepot.engine.api_models import near_rule_model
from entrepot.engine.credential_checks import CredentialChecks
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.repositories import NAMES_IN_PREVIEW
from entrepot.engine.rule_usage import RuleUsage, RuleUsageCounter, name_ranges
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog
from entrepot.formatting import counted
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog


class RuleService:
    """The cache rules of one engine."""

    def __init__(
        self,
        *,
        settings: Settings,
        registries: SourceRegistries,
        documents: Documents,
        catalog: Catalog,
        blobs: BlobStore,
        cache: ArtifactCache,
        credential_checks: CredentialChecks,
        usage: RuleUsageCounter,
        endpoints: Endpoints,
        events: EventLog,
    ) -> None:
        self._settings = settings
        self._registries = registries
        self._documents = documents
        self._catalog = catalog
        self._blobs = blobs
        self._cache = cache
        self._credential_checks = credential_checks
        self._usage = usage
        self._endpoints = endpoints
        self._events = events

    @property
    def book(self) -> RuleBook:
        """The rules in force."""
        return self._documents.rules

    async def list(self) -> Sequence[RuleSnapshot]:
        """All cache rules, by name, and how they are used."""
        rules = self.book
        usage = await self._usage.count(rules)
        return [self._snapshot(rule, usage[rule.name]) for rule in rules]

    async def get(self, name: str) -> RuleSnapshot:
        """One cache rule, and how it is used; raises `CacheRuleNotFound`."""
        rules = self.book
        rule = rules.get(name)
        return self._snapshot(rule, await self._usage.count_rule(rules, rule))

    def _snapshot(self, rule: CacheRule, usage: RuleUsage) -> RuleSnapshot:
        return RuleSnapshot(
            name=rule.name,
            source_repository=str(rule.source),
            target_repository=str(rule.target),
            credential_set=rule.credential_set,
            created=rule.created.timestamp(),
            login_server=rule.source.login_server,
            repositories=usage.repositories,
            size=usage.size,
            pulls=usage.pulls,
            last_pull=usage.last_pull,
            freshness=rule.freshness_text,
            freshness_in_force=rule.freshness_text or freshness_text(self._settings.freshness),
            requests_made=usage.requests_made,
            # A manifest whose client left before the end was still requested.
            requests_saved=max(0, usage.manifests_answered - usage.requests_made),
            readers=rule.access.readers,
            anonymous=rule.access.anonymous,
            readable_by=rule.access.described(allow_anonymous=self._settings.anonymous_may_read),
        )

    async def create(self, draft: RuleDraft) -> CacheRule:
        """Create a cache rule; raises a refusal, and then nothing is changed."""
        rule = await self._documents.create_rule(draft, self._catalog)
        self._cache.forget_failures()
        self._events.record(
            EventKind.RULE_CREATED,
            f"Cache rule {rule.name}: {rule.target} from {rule.source}.",
            rule.name,
        )
        return rule

    async def validate(self, draft: RuleDraft) -> RuleVerdict:
        """What is wrong with the draft of a new rule, and which target would be free.

        The draft may be incomplete: only what is written so far is checked.
        """
        return await asyncio.to_thread(
            self.book.validate, draft, existing_repositories=self._catalog
        )

    async def update(
        self,
        name: str,
        credential_set: str | UnsetType | None = UNSET,
        *,
        freshness: str | float | UnsetType | None = UNSET,
        readers: Sequence[str] | UnsetType = UNSET,
        anonymous: bool | UnsetType | None = UNSET,
    ) -> CacheRule:
        """Change the credential set, the tag lifetime or the readers of a cache rule.

        Nothing else of it can change. Raises `CacheRuleNotFound` or another refusal.
        """
        rule = await self._documents.update_rule(
            name,
            credential_set,
            freshness=freshness,
            readers=readers,
            anonymous=anonymous,
        )
        self._cache.forget_failures()
        changes = []
        if credential_set is not UNSET:
            changes.append(
                f"signs in with {rule.credential_set}"
                if rule.credential_set
                else "uses no credential set"
            )
        if freshness is not UNSET:
            changes.append(f"has the tag lifetime {rule.freshness_text or 'of the settings'}")
        if readers is not UNSET or anonymous is not UNSET:
            allow = self._settings.anonymous_may_read
            changes.append(f"is readable by {rule.access.described(allow_anonymous=allow)}")
        self._events.record(
            EventKind.RULE_UPDATED,
            f"Cache rule {rule.name} now {' and '.join(changes)}.",
            rule.name,
        )
        return rule

    async def delete(self, name: str) -> None:
        """Delete a cache rule; what it cached stays cached. Raises `CacheRuleNotFound`."""
        rule = await self._documents.delete_rule(name)
        await self._cache.usage.write()
        await self._catalog.delete_rule_requests(rule.name)
        self._cache.forget_failures()
        self._events.record(
            EventKind.RULE_DELETED, f"Cache rule {name} is deleted; what it cached stays.", name
        )

    async def preview_delete(self, name: str) -> DeletionPlan:
        """What stays when a cache rule is deleted, and which rule answers for it then.

        Raises `CacheRuleNotFound`.
        """
        rules = self.book
        rule = rules.get(name)
        repositories, count = await self._catalog.names_within(
            name_ranges(rules, [rule])[rule.name], NAMES_IN_PREVIEW
        )
        # Two wildcard rules do not overlap: another rule answers for all of them, or none does.
        next_route = rules.without(rule.name).route(repositories[0]) if repositories else None
        problem = self._documents.problem
        return DeletionPlan(
            kind="rule",
            name=rule.name,
            refused_code=problem.code if problem is not None else None,
            refused=problem.message if problem is not None else None,
            fetched_again_by=next_route.rule.name if next_route is not None else None,
            repositories=tuple(repositories) if next_route is None else (),
            repository_count=count if next_route is None else 0,
        )

    async def preview_import(self, text: str) -> ImportResult:
        """What an import of a TOML text would do to its rules and credential sets.

        Nothing is changed.
        """
        return await self._documents.plan_import(text, self._catalog)

    async def apply_import(self, text: str) -> ImportResult:
        """Create the rules and credential sets of a TOML text, all or none of them.

        Raises `ImportRefused`, and then nothing is changed.
        """
        plan = await self._documents.apply_import(text, self._catalog)
        created = [entry for entry in plan.entries if entry.outcome is ImportOutcome.CREATE]
        if created:
            self._cache.forget_failures()
            sets = [entry.name for entry in created if isinstance(entry, CredentialSetEntryResult)]
            rule_count = counted(len(created) - len(sets), "cache rule")
            self._events.record(
                EventKind.IMPORTED,
                f"Imported {rule_count} and {counted(len(sets), 'credential set')}.",
            )
            for name in sets:
                self._credential_checks.check_soon(name)
        return plan

    async def match(self, image: str) -> RuleMatch:
        """Which rule answers for an image as a person types it, and where it leads.

        Raises a `Refusal` when the text names no image.
        """
        lookup = await asyncio.to_thread(
            match, image, self.book, self._registries, self._endpoints.own_hosts
        )
        name, route = lookup.repository, lookup.route
        reference = (
            f"@{lookup.digest}"
            if lookup.digest is not None
            else f":{lookup.tag}"
            if lookup.tag is not None
            else ""
        )
        return RuleMatch(
            image=image,
            repository=name,
            tag=lookup.tag,
            digest=str(lookup.digest) if lookup.digest is not None else None,
            rule=route.rule.name if route is not None else None,
            source_repository=route.source if route is not None else None,
            credential_set=route.rule.credential_set if route is not None else None,
            pull=f"{self._endpoints.registry}/{name}{reference}"
            if name is not None and route is not None
            else None,
            cached_state=await self._cached_state(name, lookup.digest or lookup.tag)
            if name is not None
            else CachedState.NOT_CACHED,
            why_not=lookup.why_not,
            others=lookup.others,
            near=tuple(near_rule_model(nearby) for nearby in lookup.near),
        )

    async def _cached_state(
        self, repository: Repository, reference: Tag | Digest | None
    ) -> CachedState:
        """How much of an image is cached: whole as soon as the image of one platform is."""
        if reference is None:
            is_cached = await self._catalog.is_cached(repository)
            return CachedState.CACHED if is_cached else CachedState.NOT_CACHED
        if not isinstance(reference, Digest):
            entry = await self._catalog.tag(repository, reference)
            if entry is None:
                return CachedState.NOT_CACHED
            reference = entry.digest
        pending, state = [reference], CachedState.NOT_CACHED
        while pending:
            manifest = await self._catalog.manifest(pending.pop(), repository)
            if manifest is None:
                continue
            state = CachedState.PARTLY_CACHED
            children = [child.digest for child in manifest.children]
            if children:
                cached_children = await self._catalog.manifests_of(repository, children)
                pending += [digest for digest in children if digest in cached_children]
            if not manifest.is_index and all(
                blob.optional or self._blobs.size(blob.digest) is not None
                for blob in manifest.blobs
            ):
                return CachedState.CACHED
        return state
