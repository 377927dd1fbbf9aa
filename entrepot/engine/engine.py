"""The engine: the long-running process that holds rules, credential sets, sources, store and cache.
Without HTTP; the servers and the tests put faces on it."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType

from entrepot import __version__
from entrepot.api.models import (
    ActivityCounts,
    CredentialSetSnapshot,
    DeletionPlan,
    EngineStatus,
    PullSnapshot,
    RefreshedTag,
    RuleMatch,
    RuleSnapshot,
    TriedSignIn,
    UpstreamSnapshot,
)
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.causes import CauseCode, Fault, at_fault
from entrepot.config.documents import Documents
from entrepot.config.settings import Directories, Settings
from entrepot.core.credentials import (
    CredentialBook,
    CredentialHealth,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetInUse,
    CredentialSetVerdict,
)
from entrepot.core.freshness import freshness_text
from entrepot.core.platforms import Platform, normal_architecture
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import CredentialSetEntryResult, ImportResult
from entrepot.core.rule_lookup import match
from entrepot.core.rules import CacheRule, Route, RuleBook, RuleDraft, RuleVerdict
from entrepot.core.states import CachedState, HealthStatus, ImportOutcome
from entrepot.engine.api_models import near_rule_model, pull_snapshot
from entrepot.engine.credential_checks import SignIns
from entrepot.engine.etags import Revisions
from entrepot.engine.health import Health
from entrepot.engine.lock import only_engine
from entrepot.engine.maintenance import Housekeeping
from entrepot.engine.repositories import NAMED, CachedRepositories
from entrepot.engine.traffic import ActivityRecord
from entrepot.engine.verification import Verification
from entrepot.errors import EntrepotError, RequestInvalid
from entrepot.events import EventLog
from entrepot.formatting import counted
from entrepot.source.circuit_breaker import Breaker
from entrepot.source.client import SourceClient, Sources
from entrepot.source.http import ATTEMPTS
from entrepot.source.proxies import environment_problems
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog, CatalogFailed
from entrepot.store.catalog_maintenance import Upkeep
from entrepot.tasks import LatestValue, OwnedTasks

BOOKKEEPING = 2.0
"""Seconds between two looks at the documents, and between two writes of what was used."""

STATUS_TIMEOUT = 1.0
"""Seconds that the status waits for each number that the disk has to give; then it tells the last
one."""

RULE_COUNTS_TIMEOUT = 5.0
"""Seconds that a listing of the rules waits for how they are used; to count 10,000 repositories
takes tens of milliseconds."""

STUCK_MARGIN = 30.0
"""Seconds that a fill may take for one step beyond what its source may."""

_log = logging.getLogger("entrepot.engine")


class Engine:
    """One engine on one data directory. Open it with `Engine.open`."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        registries: SourceRegistries,
        documents: Documents,
        sources: Sources,
        catalog: Catalog,
        blobs: BlobStore,
        fills: Fills,
        events: EventLog,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        demo: bool,
    ) -> None:
        self.directories = directories
        self.settings = settings
        self.registries = registries
        self.documents = documents
        self.sources = sources
        self.catalog = catalog
        self.blobs = blobs
        self.fills = fills
        self.events = events
        self.cache = ArtifactCache(
            settings=settings,
            catalog=catalog,
            blobs=blobs,
            fills=fills,
            events=events,
            route=self._route,
            client=self._client,
            clock=clock,
            monotonic=monotonic,
        )
        sources.on_reachability = self._reachability_changed
        self.address = settings.listen
        """Where container clients find the registry; the server sets it when it listens."""
        self.management_address: str | None = None
        """Where the management API is offered on TCP; the server sets it when it listens."""
        self.socket_problem: str | None = None
        """Why commands can't reach the engine on its Unix socket; the server that looks after it
        sets it."""
        self.served = 0
        """Bytes of blobs that went to clients since the start."""
        self.stopping = asyncio.Event()
        """Somebody asked the engine to end."""
        self._clock = clock
        self._demo = demo
        self._started = clock()
        self.sign_ins = SignIns(
            sets=lambda: documents.credential_sets,
            used=lambda: {
                each.credential_set for each in documents.rules if each.credential_set is not None
            },
            client=lambda each: sources.client(registries.find(each.login_server), each),
            events=events,
            clock=clock,
        )
        self.activity = ActivityRecord(catalog, clock=clock, grown=self._grown)
        self.health_of_engine = Health(
            directories.data,
            fills=lambda: fills.under_way,
            ask_catalog=catalog.examine,
            failed_requests=lambda: catalog.health.problem,
            # A fill that is refused moves with each try; what takes longer than all time-outs of
            # one try together is stuck.
            stuck_after=ATTEMPTS * (settings.connect_timeout + settings.read_timeout)
            + STUCK_MARGIN,
            on_change=self._health_changed,
            clock=time.monotonic,
        )
        self._tasks = OwnedTasks()
        self.upkeep = Upkeep(catalog)
        self.housekeeping = Housekeeping(
            directories=directories,
            settings=settings,
            catalog=catalog,
            blobs=blobs,
            fills=fills,
            cache=self.cache,
            events=events,
            tasks=self._tasks,
            clock=clock,
        )
        self.verification = Verification(
            catalog=catalog,
            blobs=blobs,
            copies=self.cache.copies,
            events=events,
            tasks=self._tasks,
            clock=clock,
        )
        self.repositories = CachedRepositories(
            settings=settings,
            rules=lambda: documents.rules,
            catalog=catalog,
            cache=self.cache,
            housekeeping=self.housekeeping,
            events=events,
        )
        self._answers_with_old_counts = 0
        self.revisions = Revisions(
            documents=lambda: documents.revision,
            health=lambda: tuple(self.health(each.name) for each in documents.credential_sets),
            held=lambda: catalog.changes,
            usage=lambda: catalog.uses + self._answers_with_old_counts,
            clock=time.monotonic,
        )
        """By which a client knows whether a listing would show something else."""
        # Each asks the file system, which may hang.
        self._free_space = LatestValue(lambda: asyncio.to_thread(blobs.free))
        self._space_limit = LatestValue(self.housekeeping.limit)
        self._bookkeeping_failure: str | None = None
        self._missed_writes = 0
        """Writes that failed before the catalog was last brought in line with the disk."""
        self._repositories_count = 0
        self._use_counted: tuple[tuple[RuleBook, int, int] | None, dict[str, _RuleUse]] = None, {}
        """Of which rules, changes and pulls the last count is."""
        self._requests_counted: dict[str, tuple[int, int]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directories: Directories,
        settings: Settings,
        *,
        demo: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> AsyncIterator[Engine]:
        """Open the data directory and run what runs in the background; raises `EngineError` or a
        refusal of a document when it can't.

        *clock* gives seconds since the epoch; *monotonic* measures spans within this run. A clock
        that is given alone serves for both.
        """
        if monotonic is None:
            monotonic = time.monotonic if clock is time.time else clock
        directories.make()
        with only_engine(directories):
            registries = SourceRegistries(settings.upstreams)
            documents = Documents(directories, registries)
            await documents.load()
            blobs = BlobStore(directories.blobs, directories.fills)
            try:
                await blobs.open()
            except OSError as error:
                # What is cached can be served all the same; what is fetched is passed on.
                _log.warning("Blobs can't be kept in %s: %s", directories.blobs, error.strerror)
            written = await asyncio.to_thread(_last_written, directories)
            try:
                async with (
                    Catalog.open(directories.catalog, clock=clock) as catalog,
                    Sources(settings) as sources,
                ):
                    sources.diagnosis.clock.not_before = written
                    events = EventLog(clock)

                    async def kept(digest: Digest, count: int, origin: str) -> None:
                        await engine.housekeeping.kept(digest, count, origin)

                    def refused(error: OSError) -> None:
                        engine.housekeeping.disk_refused(error)

                    fills = Fills(
                        blobs,
                        clock=time.monotonic,
                        on_stored=kept,
                        on_refusal=refused,
                        parallel_per_source=settings.parallel_per_source,
                    )
                    engine = cls(
                        directories=directories,
                        settings=settings,
                        registries=registries,
                        documents=documents,
                        sources=sources,
                        catalog=catalog,
                        blobs=blobs,
                        fills=fills,
                        events=events,
                        clock=clock,
                        monotonic=monotonic,
                        demo=demo,
                    )
                    async with engine._running():
                        yield engine
            finally:
                blobs.close()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        for sentence in self.catalog.health.told:
            self.events.record("catalog-recovered", sentence, level=logging.WARNING)
        if self.catalog.refusal is not None:
            self.events.record(
                "catalog-read-only", self.catalog.refusal.message, level=logging.ERROR
            )
        await self._load()
        try:
            async with self.fills.running(), self.cache.pulls.running():
                try:
                    async with self._tasks:
                        self._tasks.start(self._keep_books(), "bookkeeping")
                        self._tasks.start(self.housekeeping.watch(), "looking after what is held")
                        self._tasks.start(
                            self.health_of_engine.watch(), "looking at the engine's health"
                        )
                        self._tasks.start(self.upkeep.watch(), "looking after the catalog")
                        self._tasks.start(self.sources.prepare(), "preparing for sources")
                        self._tasks.start(self.sign_ins.watch(), "trying the credential sets")
                        yield
                finally:
                    await self._write_last(self.cache.close, "What was used last")
        finally:
            await self._write_last(self.cache.history.write, "The pulls that ended last")
            await self._write_last(self.activity.write, "The activity of the last minute")
            await self.upkeep.close()

    async def _load(self) -> None:
        """Read what earlier engines wrote; where the catalog fails, the engine begins without it."""
        try:
            await self.housekeeping.begin()
            await self.activity.load()
            self.cache.pulls.number_from(await self.cache.history.load())
        except CatalogFailed as error:
            _log.error(
                "The history and the size of what is cached can't be read: %s", error.message
            )

    async def _write_last(self, write: Callable[[], Awaitable[None]], what: str) -> None:
        """Keep for the next engine what happened in this one; where the catalog fails, the engine
        ends all the same."""
        try:
            await write()
        except EntrepotError as error:
            _log.error("%s could not be written down: %s", what, error.what)
        except Exception:
            _log.exception("%s could not be written down", what)

    async def _keep_books(self) -> None:
        """Notice hand edits of the documents, and write down what was used."""
        while True:
            await asyncio.sleep(BOOKKEEPING)
            try:
                await self._keep_books_once()
            except Exception as error:
                # A disk that fails for a moment must not end the bookkeeping for good.
                self._bookkeeping_failed(error)
                continue
            if self._bookkeeping_failure is not None:
                self._bookkeeping_failure = None
                _log.info("The books are kept again")

    def _bookkeeping_failed(self, error: Exception) -> None:
        """Log each new failure once: on a full disk the same one comes every two seconds (S19)."""
        failure = f"{type(error).__name__}: {error}"
        if failure == self._bookkeeping_failure:
            return
        self._bookkeeping_failure = failure
        if isinstance(error, (EntrepotError, OSError)):
            _log.error(
                "Keeping the books failed, and is tried again each %g s: %s", BOOKKEEPING, error
            )
        else:
            _log.error(
                "Keeping the books failed in an unforeseen way, and is tried again each %g s",
                BOOKKEEPING,
                exc_info=error,
            )

    async def _keep_books_once(self) -> None:
        self.cache.drop_expired()
        try:
            await self._write_usage()
        finally:
            # Also where the catalog fails, a hand edit is seen.
            await self._reload_documents()

    async def _write_usage(self) -> None:
        """Write down what was used, and what the catalog did not take before."""
        missed = self.catalog.health.missed_writes
        await self.cache.index.write_unwritten()
        await self.cache.usage.write()
        await self.cache.history.write()
        await self.activity.write_if_due()
        if (
            missed != self._missed_writes
            and missed == self.catalog.health.missed_writes
            and self.catalog.health.problem is None
        ):
            # It works again. Blobs that came meanwhile have no rows yet: they are adopted, like
            # those of an engine that was killed.
            self._missed_writes = missed
            await self.housekeeping.heal()

    async def _reload_documents(self) -> None:
        if not await self.documents.edited():
            return
        problem = self.documents.problem
        if await self.documents.reload_if_changed(await self.catalog.repository_names()):
            self.cache.forget_failures()
            self.events.record(
                "documents-read",
                "The rules and credential sets were edited by hand and have been read.",
            )
        elif self.documents.problem is not None and self.documents.problem is not problem:
            self.events.record(
                "documents-refused", self.documents.problem.message, level=logging.ERROR
            )

    # Routing

    def _route(self, repository: str) -> Route | None:
        return self.documents.rules.route(repository)

    def _client(self, route: Route) -> SourceClient:
        name = route.rule.credential_set
        return self.sources.client(
            route.registry, self.documents.credential_sets.get(name) if name is not None else None
        )

    # Cache rules

    async def create_rule(self, draft: RuleDraft) -> CacheRule:
        """Make a cache rule; raises a refusal, and then nothing is changed."""
        rule = await self.documents.create_rule(draft, await self.catalog.repository_names())
        self.cache.forget_failures()
        self.events.record(
            "rule-created", f"Cache rule {rule.name}: {rule.target} from {rule.source}.", rule.name
        )
        return rule

    async def check_rule(self, draft: RuleDraft) -> RuleVerdict:
        """What is wrong with a rule that does not exist yet, as far as it is written, and which
        target would be free."""
        return self.documents.rules.problems(
            draft, existing_repositories=await self.catalog.repository_names()
        )

    async def update_rule(
        self,
        name: str,
        credential_set: str | UnsetType | None = UNSET,
        *,
        freshness: str | float | UnsetType | None = UNSET,
    ) -> CacheRule:
        """Change the credential set or the freshness of a cache rule; nothing else of it can
        change."""
        rule = await self.documents.update_rule(name, credential_set, freshness=freshness)
        self.cache.forget_failures()
        changes = []
        if credential_set is not UNSET:
            changes.append(
                f"signs in with {rule.credential_set}"
                if rule.credential_set
                else "uses no credential set"
            )
        if freshness is not UNSET:
            changes.append(f"has the freshness {rule.freshness_text or 'of the settings'}")
        self.events.record(
            "rule-updated", f"Cache rule {rule.name} now {' and '.join(changes)}.", rule.name
        )
        return rule

    async def delete_rule(self, name: str) -> None:
        """Delete a cache rule. What it cached stays and stays pullable."""
        deleted = await self.documents.delete_rule(name)
        await self.cache.usage.write()
        await self.catalog.forget_requests_of(deleted.name)
        self.cache.forget_failures()
        self.events.record(
            "rule-deleted", f"Cache rule {name} is deleted; what it cached stays.", name
        )

    async def plan_delete_rule(self, name: str) -> DeletionPlan:
        """What stays when a cache rule is deleted, and which rule answers for it then; raises
        `CacheRuleNotFound`."""
        rules = self.documents.rules
        rule, left, names = (
            rules.get(name),
            rules.without(name),
            await self.catalog.repository_names(),
        )

        def judge() -> tuple[list[str], str | None]:
            of_rule = [
                each
                for each in names
                if (route := rules.route(each)) is not None and route.rule is rule
            ]
            taken_over = {
                each: route.rule.name for each in of_rule if (route := left.route(each)) is not None
            }
            return [each for each in of_rule if each not in taken_over], min(
                taken_over.values(), default=None
            )

        alone, other = await asyncio.to_thread(judge)
        problem = self.documents.problem
        return DeletionPlan(
            kind="rule",
            name=rule.name,
            refused_code=problem.code if problem is not None else None,
            refused=problem.message if problem is not None else None,
            fetched_again_by=other,
            repositories=tuple(alone[:NAMED]),
            repository_count=len(alone),
        )

    def plan_delete_credential_set(self, name: str) -> DeletionPlan:
        """What stands in the way when a credential set is to be deleted; raises
        `CredentialSetNotFound`."""
        sets, rules = self.documents.credential_sets, self.documents.rules
        found, refusal = (
            sets.get(name),
            self.documents.problem or _in_use(rules, sets.without(name)),
        )
        return DeletionPlan(
            kind="credentialSet",
            name=found.name,
            refused_code=refusal.code if refusal is not None else None,
            refused=refusal.message if refusal is not None else None,
            used_by=tuple(each.name for each in rules.using(found.name))[:NAMED],
        )

    async def plan_import(self, text: str) -> ImportResult:
        """What would become of the rules and credential sets of a TOML text; nothing is changed."""
        return await self.documents.plan_import(text, await self.catalog.repository_names())

    async def apply_import(self, text: str) -> ImportResult:
        """Make the rules and credential sets of a TOML text, all or none of them; raises
        `ImportRefused`, and then nothing is changed."""
        done = await self.documents.apply_import(text, await self.catalog.repository_names())
        made = [each for each in done.entries if each.outcome is ImportOutcome.CREATE]
        if made:
            self.cache.forget_failures()
            sets = [each.name for each in made if isinstance(each, CredentialSetEntryResult)]
            what = f"{counted(len(made) - len(sets), 'cache rule')} and {counted(len(sets), 'credential set')}"
            self.events.record("imported", f"Imported {what}.")
            for each in sets:
                self.sign_ins.look_now(each)
        return done

    async def match(self, image: str) -> RuleMatch:
        """Which rule answers for an image as a person types it, and where it leads; raises a
        `Refusal` when it is none."""
        _, _, port = self.address.rpartition(":")
        own = {self.address.lower(), f"localhost:{port}", f"127.0.0.1:{port}"}
        found = await asyncio.to_thread(match, image, self.documents.rules, self.registries, own)
        name = found.repository
        reference = (
            f"@{found.digest}"
            if found.digest is not None
            else f":{found.tag}"
            if found.tag is not None
            else ""
        )
        return RuleMatch(
            image=image,
            repository=name,
            tag=found.tag,
            digest=str(found.digest) if found.digest is not None else None,
            rule=found.route.rule.name if found.route is not None else None,
            source_repository=found.route.source if found.route is not None else None,
            credential_set=found.route.rule.credential_set if found.route is not None else None,
            pull=f"{self.address}/{name}{reference}"
            if name is not None and found.route is not None
            else None,
            holding=await self._holding(name, found.digest or found.tag)
            if name is not None
            else CachedState.NOT_CACHED,
            why_not=found.why_not,
            others=found.others,
            near=tuple(near_rule_model(nearby) for nearby in found.near),
        )

    async def _holding(self, repository: Repository, reference: Tag | Digest | None) -> CachedState:
        """How much of an image is held: whole as soon as the image of one platform is."""
        if reference is None:
            return (
                CachedState.CACHED
                if await self.catalog.is_cached(repository)
                else CachedState.NOT_CACHED
            )
        if not isinstance(reference, Digest):
            entry = await self.catalog.tag(repository, reference)
            if entry is None:
                return CachedState.NOT_CACHED
            reference = entry.digest
        held = await self.catalog.manifests_of(repository)
        ahead, found = [reference], CachedState.NOT_CACHED
        while ahead:
            digest = ahead.pop()
            manifest = await self.catalog.manifest(digest, repository) if digest in held else None
            if manifest is None:
                continue
            found = CachedState.PARTLY_CACHED
            ahead += [each.digest for each in manifest.children]
            if not manifest.is_index and all(
                each.optional or self.blobs.size(each.digest) is not None for each in manifest.blobs
            ):
                return CachedState.CACHED
        return found

    async def rule_snapshots(self) -> list[RuleSnapshot]:
        """All cache rules, by name, and how they are used."""
        rules = self.documents.rules
        use, requests = await self._counts_of_rules(rules)
        return [
            self._rule_snapshot(
                rule, use.get(rule.name, _NEVER_USED), requests.get(rule.name, (0, 0))
            )
            for rule in rules
        ]

    async def rule_snapshot(self, name: str) -> RuleSnapshot:
        """One cache rule, and how it is used; raises `CacheRuleNotFound`."""
        rules = self.documents.rules
        rule = rules.get(name)
        use, requests = await self._counts_of_rules(rules)
        return self._rule_snapshot(
            rule, use.get(rule.name, _NEVER_USED), requests.get(rule.name, (0, 0))
        )

    def _rule_snapshot(
        self, rule: CacheRule, use: _RuleUse, requests: tuple[int, int]
    ) -> RuleSnapshot:
        answered, made = requests
        return RuleSnapshot(
            name=rule.name,
            source_repository=str(rule.source),
            target_repository=str(rule.target),
            credential_set=rule.credential_set,
            created=rule.created.timestamp(),
            login_server=rule.source.login_server,
            repositories=use.repositories,
            size=use.size,
            pulls=use.pulls,
            last_pull=use.last_pull,
            freshness=rule.freshness_text,
            freshness_in_force=rule.freshness_text or freshness_text(self.settings.freshness),
            requests_made=made,
            # A manifest that no client waited for to the end was asked for all the same.
            requests_saved=max(0, answered - made),
        )

    async def _counts_of_rules(
        self, rules: RuleBook
    ) -> tuple[dict[str, _RuleUse], dict[str, tuple[int, int]]]:
        """How the rules are used, by their names; what was last known while the catalog fails or
        its disk hangs: rules are in memory, and must be seen."""
        try:
            async with asyncio.timeout(RULE_COUNTS_TIMEOUT):
                use, requests = (
                    await self._use_of_rules(rules),
                    await self.catalog.requests_of_rules(),
                )
        except (CatalogFailed, TimeoutError) as error:
            _log.debug("The use of the rules can't be counted: %s", error)
            # Who has this answer must not take it for the one of a catalog that works again.
            self._answers_with_old_counts += 1
            return self._use_counted[1], self._requests_counted
        self._requests_counted = requests
        return use, requests

    async def _use_of_rules(self, rules: RuleBook) -> dict[str, _RuleUse]:
        """What is cached through each rule, and how it was pulled; counted when something of it has
        changed since the last time."""
        counted_for, use = self._use_counted
        now = (rules, self.catalog.changes, self.catalog.uses)
        if counted_for is None or counted_for[0] is not rules or counted_for[1:] != now[1:]:
            use = await self.catalog.counted_use(lambda rows: _count_use(rules, rows))
            self._use_counted = now, use
        return use

    # Credential sets

    async def create_credential_set(self, draft: CredentialSetDraft) -> CredentialSet:
        """Make a credential set and try it; an unhealthy one is made all the same, as in ACR.
        Raises a refusal, and then nothing is changed."""
        made = await self.documents.create_credential_set(draft)
        self.events.record(
            "credential-set-created",
            f"Credential set {made.name} for {made.login_server}.",
            made.name,
        )
        self.sign_ins.look_now(made.name)
        return made

    def check_credential_set(self, draft: CredentialSetDraft) -> CredentialSetVerdict:
        """What is wrong with a credential set that does not exist yet, as far as it is written."""
        return self.documents.credential_sets.problems(draft)

    async def try_sign_in(self, draft: CredentialSetDraft) -> TriedSignIn:
        """Sign in as a credential set would that is not made yet, or not like this; nothing is kept
        of it. Raises a refusal when there can be no such set."""
        # In a book without others every name is free, that of the set which is to be changed too.
        tried = CredentialBook(self.registries).check(draft)
        found = await self.sign_ins.outcome(tried)
        return TriedSignIn(
            health=found.status, error_code=found.error_code, error_message=found.error_message
        )

    async def update_credential_set(
        self, name: str, *, username_id: str | None = None, password_id: str | None = None
    ) -> CredentialSet:
        """Change where a credential set's secrets are kept, and try it."""
        changed = await self.documents.update_credential_set(
            name, username_id=username_id, password_id=password_id
        )
        self.cache.forget_failures()
        self.events.record(
            "credential-set-updated", f"Credential set {changed.name} is changed.", changed.name
        )
        self.sign_ins.look_now(changed.name)
        return changed

    async def delete_credential_set(self, name: str) -> None:
        """Delete a credential set that no rule uses."""
        await self.documents.delete_credential_set(name)
        self.events.record("credential-set-deleted", f"Credential set {name} is deleted.", name)

    def health(self, name: str) -> CredentialHealth:
        """How the last sign-in with a credential set went."""
        return self.sign_ins.health(name)

    async def check_sign_in(self, name: str) -> CredentialSetSnapshot:
        """Really sign in with a credential set, and keep how it went as its health; raises
        `CredentialSetNotFound`."""
        await self.sign_ins.check(name)
        return self.credential_set_snapshot(name)

    def credential_set_snapshots(self) -> list[CredentialSetSnapshot]:
        """All credential sets, by name, with their health."""
        used_by: dict[str, list[str]] = {}
        for rule in self.documents.rules:
            if rule.credential_set is not None:
                used_by.setdefault(rule.credential_set, []).append(rule.name)
        return [
            self._credential_set_snapshot(credential_set, used_by.get(credential_set.name, ()))
            for credential_set in self.documents.credential_sets
        ]

    def credential_set_snapshot(self, name: str) -> CredentialSetSnapshot:
        """One credential set with its health; raises `CredentialSetNotFound`."""
        credential_set = self.documents.credential_sets.get(name)
        users = self.documents.rules.using(credential_set.name)
        return self._credential_set_snapshot(credential_set, [rule.name for rule in users])

    def _credential_set_snapshot(
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

    # Pulls

    async def start_pull(
        self, image: str, platform_name: str | None, asked_by: str
    ) -> PullSnapshot:
        """Begin a pull of an image, for this machine's platform unless another is named; raises
        `PlatformInvalid`."""
        own = Platform.parse(own_platform())
        wanted = (
            Platform.parse(platform_name, machine=own)
            if platform_name and platform_name.strip()
            else own
        )
        pull = await self.cache.pull(ImageReference.parse(image), wanted, asked_by=asked_by)
        return pull_snapshot(pull.progress())

    def pull_snapshots(self) -> list[PullSnapshot]:
        """The pulls under way, and those that ended, without their layers; newest first."""
        return sorted(
            (*self.running_pull_snapshots(), *map(pull_snapshot, self.cache.history.all())),
            key=lambda each: int(each.id),
            reverse=True,
        )

    def running_pull_snapshots(self) -> list[PullSnapshot]:
        """The pulls under way, newest first."""
        return [
            pull_snapshot(pull.progress())
            for pull in self.cache.pulls.all()
            if not pull.state.ended
        ]

    async def pull_snapshot(self, id: str) -> PullSnapshot:
        """A pull with its layers, one of an earlier engine too; raises `NotFound`."""
        ended = await self.cache.history.get(id)
        return pull_snapshot(ended if ended is not None else self.cache.pulls.get(id).progress())

    async def cancel_pull(self, id: str) -> PullSnapshot:
        """Stop a pull, and wait for its end; one that has ended stays as it is. Raises `NotFound`."""
        ended = await self.cache.history.get(id)
        if ended is not None:
            return pull_snapshot(ended)
        cancelled = self.cache.pulls.cancel(id)
        await cancelled.finished.wait()
        return pull_snapshot(cancelled.progress())

    async def refresh(self, image: str) -> RefreshedTag:
        """Ask the source where a tag points now, however fresh it is; raises what
        `ArtifactCache.refresh` raises."""
        reference = ImageReference.parse(image)
        if reference.digest is not None or reference.tag is None:
            raise RequestInvalid(
                f"{image} is named by its digest, which never changes.",
                "Name a tag: library/nginx:1.27.",
                field="image",
            )
        route = self._route(reference.repository)
        done = await self.cache.refresh(reference.repository, reference.tag)
        name = f"{reference.repository}:{reference.tag}"
        if done.before is not None and done.before != done.digest:
            self.events.record(
                "tag-moved", f"{name} moved from {done.before} to {done.digest}.", name
            )
        return RefreshedTag(
            repository=reference.repository,
            tag=reference.tag,
            source_repository=route.source if route is not None else "",
            digest=str(done.digest),
            before=str(done.before) if done.before is not None else None,
            gone=done.gone,
            problem=done.problem,
        )

    # The whole

    def _grown(self) -> ActivityCounts:
        return ActivityCounts(
            hits=self.cache.hits,
            misses=self.cache.misses,
            served=self.served,
            from_source=self.fills.fetched,
            requests_saved=self.cache.usage.requests_saved,
        )

    def _reachability_changed(self, breaker: Breaker) -> None:
        if breaker.error is not None:
            message = f"{breaker.error.message} Until {breaker.login_server} answers again only what is held is served."
            self.events.record(
                "source-unreachable", message, breaker.login_server, level=logging.WARNING
            )
            return
        # What failed because nobody answered may work now.
        self.cache.forget_failures()
        self.events.record(
            "source-reachable",
            f"{breaker.login_server} ({breaker.origin.partition('://')[2]}) can be reached again.",
            breaker.login_server,
        )

    def upstream_snapshots(self) -> list[UpstreamSnapshot]:
        """The source registries that rules may pull from, and how they are."""
        rules: dict[str, int] = {}
        for rule in self.documents.rules:
            rules[rule.source.login_server] = rules.get(rule.source.login_server, 0) + 1
        registries = list(self.registries)
        known = {each.login_server for each in registries}
        # A registry of a pattern such as *.azurecr.io is listed by its own name as soon as a rule
        # uses it.
        registries += [
            self.registries.find(login_server)
            for login_server in sorted(rules)
            if login_server not in known
        ]
        snapshots = []
        for each in registries:
            state = self.sources.state(each.login_server)
            snapshots.append(
                UpstreamSnapshot(
                    name=each.name,
                    login_server=each.login_server,
                    sign_in=each.sign_in,
                    rules=rules.get(each.login_server, 0),
                    reachable=state.reachable,
                    problem=state.problem,
                    advice=state.advice,
                    cause=state.cause,
                    at_fault=at_fault(state.cause) if state.cause is not None else None,
                    allowance_remaining=state.allowance_remaining,
                    allowance_limit=state.allowance_limit,
                    allowance_resets=state.allowance_resets,
                    allowance_window=state.allowance_window,
                    unreachable_since=state.unreachable_since,
                    next_try=state.next_try,
                    declared=each.declared,
                )
            )
        return snapshots

    async def status(self) -> EngineStatus:
        """The engine in one look."""
        return EngineStatus(
            version=__version__,
            address=self.address,
            started=self._started,
            rules=len(self.documents.rules),
            rules_limit=self.documents.rules.RULES_LIMIT,
            credential_sets=len(self.documents.credential_sets),
            repositories=await self._repositories_told(),
            blobs_size=self.housekeeping.total_size,
            space_free=await self._space_free(),
            space_limit=await self._space_limit_told(),
            pulls_running=self.cache.pulls.running_count(),
            speed=self.fills.speed,
            served=self.served,
            from_source=self.fills.fetched,
            last_day=self.activity.total(),
            revision=self.revisions.whole,
            notices=tuple(self._notices()),
            freshness=freshness_text(self.settings.freshness),
            demo=self._demo,
            read_only=self.settings.read_only,
        )

    async def _repositories_told(self) -> int:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                self._repositories_count = await self.catalog.repositories_count()
        except (CatalogFailed, TimeoutError) as error:
            # A disk or a catalog that fails is told in the notices, and these must be seen.
            _log.debug("The cached repositories can't be counted: %s", error)
        return self._repositories_count

    async def _space_free(self) -> int:
        try:
            return await self._free_space.get(STATUS_TIMEOUT) or 0
        except OSError:
            # A disk that fails is told in the notices.
            return 0

    async def _space_limit_told(self) -> int:
        try:
            return await self._space_limit.get(STATUS_TIMEOUT) or 0
        except OSError:
            return 0

    def _health_changed(self, problems: tuple[str, ...]) -> None:
        for each in self.health_of_engine.messages():
            self.events.record("engine-unready", each, level=logging.ERROR)
        if not problems:
            self.events.record("engine-ready", "The engine is well again.")

    def _notices(self) -> Iterator[str]:
        yield from self.health_of_engine.messages()
        if self.socket_problem is not None:
            yield self.socket_problem
        yield from self.catalog.health.told
        yield from self.housekeeping.notices(self.health_of_engine.disk)
        yield from self.fills.notices()
        yield from self.cache.pulls.notices()
        if self.documents.problem is not None:
            yield self.documents.problem.message
        for problem in environment_problems():
            yield problem.message
        yield from self._local_faults()
        for each in self.documents.credential_sets:
            health = self.health(each.name)
            if health.status is HealthStatus.UNHEALTHY:
                yield f"{each.name} is unhealthy: {health.error_message}"

    def _local_faults(self) -> Iterator[str]:
        """What of this machine or its network keeps sources from being reached: once, however many
        sources it concerns."""
        of_code: dict[CauseCode, list[str]] = {}
        clock = self.sources.diagnosis.clock_problem()
        for login_server in self.sources.asked:
            state = self.sources.state(login_server)
            if (
                state.cause is not None
                and state.problem
                and at_fault(state.cause) is not Fault.SOURCE
                and state.cause is not CauseCode.PROXY_UNUSABLE
            ):
                of_code.setdefault(state.cause, []).append(
                    f"{state.problem} {state.advice or ''}".strip()
                )
        if clock is not None and CauseCode.CLOCK_WRONG not in of_code:
            yield clock.message
        for messages in of_code.values():
            more = len(messages) - 1 if len(set(messages)) > 1 else 0
            yield messages[0] + (
                f" The same keeps {counted(more, 'more source')} from being reached."
                if more
                else ""
            )


def _in_use(rules: RuleBook, sets: CredentialBook) -> CredentialSetInUse | None:
    try:
        rules.with_credential_sets(sets)
    except CredentialSetInUse as refusal:
        return refusal
    return None


def _last_written(directories: Directories) -> float:
    """A time that has passed for certain: when an engine last wrote its catalog, or this program
    was installed. In seconds since the epoch."""
    times = [0.0]
    for each in (
        directories.catalog,
        directories.catalog.with_name(f"{directories.catalog.name}-wal"),
        Path(__file__),
    ):
        with suppress(OSError):
            times.append(each.stat().st_mtime)
    return max(times)


def own_platform() -> str:
    """The platform of this machine in the words of image indexes: ``linux/amd64``. Images for other
    systems than Linux are asked for by name."""
    return Platform("linux", *normal_architecture(platform.machine())).name


class _RuleUse(Struct):
    """What came through a rule."""

    repositories: int = 0
    size: int = 0
    pulls: int = 0
    last_pull: float | None = None


_NEVER_USED = _RuleUse()


def _count_use(
    rules: RuleBook, repositories: Iterable[tuple[str, int, int, float | None]]
) -> dict[str, _RuleUse]:
    use: dict[str, _RuleUse] = {}
    for repository, held, pulls, last_pull in repositories:
        rule = rules.rule_of(repository)
        if rule is None:
            continue
        used = use.setdefault(rule.name, _RuleUse())
        used.repositories += 1
        used.size += held
        used.pulls += pulls
        if last_pull is not None:
            used.last_pull = max(used.last_pull or 0.0, last_pull)
    return use
