"""Models of the API, which `entrepot.api.client.CacheClient` returns.

All are frozen and hold plain values, so a screen can be tested with models that a test makes. They
are also the JSON of ``/entrepot/v1/`` (field names in camelCase, as in ACR's API). Times are
seconds since the epoch (UTC); sizes and counts of bytes are integers; speeds are bytes per second.
"""

from __future__ import annotations

import msgspec

from entrepot.core.states import (
    CachedState,
    EvictionState,
    HealthStatus,
    ImportOutcome,
    LayerState,
    Outcome,
    PullState,
    SignIn,
    VerificationState,
)
from entrepot.event_kinds import Severity


class Snapshot(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The base of all models."""


class LayerSnapshot(Snapshot, frozen=True, kw_only=True):
    """One blob of an image that is being pulled: a layer, or the config."""

    digest: str
    media_type: str
    size: int
    received: int
    state: LayerState
    waiting_clients: int = 0
    resumed_at: int | None = None
    """The byte at which the fill last resumed."""


class PullSnapshot(Snapshot, frozen=True, kw_only=True):
    """One image of one platform on its way into the cache."""

    id: str
    repository: str
    tag: str | None
    digest: str | None
    """The digest of the image manifest; None until it is known."""
    platform: str | None
    """``linux/amd64``; None where the manifest names none."""
    rule: str | None
    login_server: str
    source_repository: str
    state: PullState
    started: float
    ended: float | None = None
    layers: tuple[LayerSnapshot, ...] = ()
    size: int = 0
    """Bytes of all layers and the config."""
    received: int = 0
    """Bytes of ``size`` that are cached: before the pull, or by it."""
    speed: float = 0.0
    """Speed from the source over the last seconds."""
    time_left: float | None = None
    from_source: int = 0
    to_clients: int = 0
    waiting_clients: int = 0
    """Clients that read its blobs while they arrive."""
    layer_count: int = 0
    """Number of layers and the config; a listing leaves ``layers`` of an ended pull empty."""
    asked_by: tuple[str, ...] = ()
    """Addresses of clients, ``cli`` or ``dashboard``."""
    error_code: str | None = None
    error_message: str | None = None
    error_cause: str | None = None
    """The fault behind it, where one is recognised: ``clock-wrong``, ``proxy-sign-in``, …
    (`entrepot.causes`)."""

    @property
    def image(self) -> str:
        """The image as a client names it: ``library/nginx:1.27``."""
        if self.tag:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest}" if self.digest else self.repository


class RuleSnapshot(Snapshot, frozen=True, kw_only=True):
    """A cache rule, and how it is used."""

    name: str
    source_repository: str
    """With its login server: ``docker.io/library/*``."""
    target_repository: str
    credential_set: str | None
    created: float
    login_server: str
    repositories: int = 0
    """Cached repositories for which it answers."""
    size: int = 0
    """Cached bytes of these repositories; shared blobs count for each of them."""
    pulls: int = 0
    last_pull: float | None = None
    freshness: str | None = None
    """The tag lifetime of the rule: ``always``, ``never`` or ``10 min``; None: the default."""
    freshness_in_force: str = "5 min"
    """The tag lifetime that applies: that of the rule, or of the settings."""
    requests_made: int = 0
    """Manifests fetched from the source: what Docker Hub counts against its rate limit."""
    requests_saved: int = 0
    """Manifests that clients got from the cache; each would have been a request to the source."""
    readers: tuple[str, ...] = ()
    """Names of readers, and of groups with ``@``, who may read what it caches; empty: all who sign
    in."""
    anonymous: bool | None = None
    """Whether readers who do not sign in may read too; None: ``readers`` and the settings say."""
    readable_by: str = "everyone"
    """Who may read, in words: ``everyone``, ``all who sign in`` or ``ci, @ops``."""


class CredentialSetSnapshot(Snapshot, frozen=True, kw_only=True):
    """A credential set: identifiers of its secrets and their health, never a secret."""

    name: str
    login_server: str
    username_id: str
    password_id: str
    created: float
    health: HealthStatus = HealthStatus.UNKNOWN
    error_code: str | None = None
    error_message: str | None = None
    checked: float | None = None
    used_by: tuple[str, ...] = ()
    """Names of the cache rules that use it."""


class RepositorySnapshot(Snapshot, frozen=True, kw_only=True):
    """A cached repository."""

    name: str
    rule: str | None
    """The cache rule that answers for it; None when the rule was deleted."""
    source_repository: str
    """The repository that it was pulled from, with its login server."""
    tags: int
    manifests: int
    size: int
    """Cached bytes; each blob counts once, shared blobs too."""
    created: float
    last_pull: float | None
    pulls: int = 0
    locked: bool = False
    """Nothing of it is evicted, and it can't be deleted."""


class TagSnapshot(Snapshot, frozen=True, kw_only=True):
    """A tag of a cached repository."""

    name: str
    digest: str
    platforms: tuple[str, ...]
    """Platforms of which an image is cached or partly cached."""
    size: int
    """Cached bytes behind this tag."""
    cached: float
    """When the manifest that it points to was cached."""
    checked: float
    """When the source registry was last asked."""
    last_pull: float | None
    fresh_until: float | None
    """When its tag lifetime ends; None: never."""
    gone: bool = False
    """It no longer exists at the source; it stays cached and is served."""
    locked: bool = False
    """What it points to is not evicted, and it can't be deleted."""
    kind: str = "image"
    """What it is: ``image``, ``Helm chart``, ``cosign signature``; ``artifact`` where Entrepot does
    not know its type."""
    artifact_type: str | None = None
    """Its artifact type by the OCI specification; None for an image, and where none is stated."""


class RepositoryDetail(Snapshot, frozen=True, kw_only=True):
    """A cached repository with its tags."""

    repository: RepositorySnapshot
    tags: tuple[TagSnapshot, ...]


class ImageBlob(Snapshot, frozen=True, kw_only=True):
    """A layer or the config of an image, and which other images need it."""

    digest: str
    media_type: str
    size: int | None
    """Bytes of the cached blob, else what the manifest states; None where neither is known."""
    cached: bool = msgspec.field(name="held")
    shared_images: int = 0
    """Other images that have it too, except those behind the same tag."""
    shared_repositories: int = 0
    """Other repositories that have it too."""
    shared_with: tuple[str, ...] = ()
    """One or two examples: ``library/nginx:1.27``, or ``library/nginx`` without a tag."""


class TagImage(Snapshot, frozen=True, kw_only=True):
    """A manifest behind a tag: one image of one platform, or an attestation about one."""

    digest: str
    media_type: str
    platform: str | None
    size: int | None
    """Bytes of the manifest and all that it needs; None until the manifest is cached."""
    cached_size: int = msgspec.field(name="heldSize")
    """Cached bytes of it."""
    cached_state: CachedState = msgspec.field(name="holding")
    last_used: float | None
    """None: it was not requested since it was cached, or is not cached."""
    locked: bool = False
    attests: str | None = None
    """The digest of the image about which this is an attestation (a bill of materials, or its
    provenance); None: it is an image."""
    config: ImageBlob | None = None
    layers: tuple[ImageBlob, ...] = ()


class TagDetail(Snapshot, frozen=True, kw_only=True):
    """A tag, and the images behind it."""

    repository: str
    tag: TagSnapshot
    media_type: str
    """The media type of the manifest that the tag points to."""
    is_index: bool
    """The tag points to an index; else to one image, the only one of ``images``."""
    images: tuple[TagImage, ...]
    """In the order of the index."""
    own_size: int
    """Cached bytes that only this tag needs."""
    shared_size: int
    """Cached bytes that other tags, images or repositories need too."""
    also_tagged: tuple[str, ...] = ()
    """Other tags of the repository that point to the same digest, at most twenty."""


class SourceRegistrySnapshot(Snapshot, frozen=True, kw_only=True):
    """A source registry that rules may pull from."""

    name: str
    """``Docker Hub``"""
    login_server: str
    """``docker.io``, or a pattern: ``*.azurecr.io``"""
    sign_in: SignIn
    rules: int = 0
    reachable: bool | None = None
    """None before the first request to it."""
    problem: str | None = None
    advice: str | None = None
    """What to do about the problem."""
    cause: str | None = None
    """The fault behind it, where one is recognised: ``clock-wrong``, ``proxy-sign-in``, …
    (`entrepot.causes`)."""
    at_fault: str | None = None
    """Where it can be fixed: ``machine``, ``network`` or ``source``."""
    rate_limit_remaining: int | None = msgspec.field(default=None, name="allowanceRemaining")
    rate_limit_limit: int | None = msgspec.field(default=None, name="allowanceLimit")
    rate_limit_resets: float | None = msgspec.field(default=None, name="allowanceResets")
    rate_limit_window: float | None = msgspec.field(default=None, name="allowanceWindow")
    """Seconds of the window of the rate limit: 21,600 at Docker Hub."""
    unreachable_since: float | None = None
    """Since then it is unreachable and only cached content is served; None: it is reachable."""
    next_try: float | None = None
    """When the next attempt to reach it is due."""
    declared: bool = False
    """It is declared in settings.toml, not in Entrepot's own table."""


class ActivityCounts(Snapshot, frozen=True, kw_only=True):
    """What clients got, and what it cost."""

    hits: int = 0
    """Manifests and blobs that were answered from the cache."""
    misses: int = 0
    """Manifests and blobs that had to be fetched for the answer."""
    served: int = 0
    """Bytes of blobs that went to clients."""
    from_source: int = 0
    """Bytes of blobs that came from sources."""
    requests_saved: int = 0
    """Manifests from the cache; Docker Hub would have counted a request for each."""

    @property
    def hit_share(self) -> float | None:
        """Hits among all answers, from 0 to 1; None before the first."""
        answers = self.hits + self.misses
        return self.hits / answers if answers else None


class ActivityBucket(ActivityCounts, frozen=True, kw_only=True):
    """What clients got within a few minutes."""

    began: float


class Activity(Snapshot, frozen=True, kw_only=True):
    """What clients got in the last 24 hours."""

    interval: float
    """Seconds of a bucket: 300."""
    buckets: tuple[ActivityBucket, ...]
    """288 buckets without a gap, oldest first; the last one is still counting."""
    total: ActivityCounts
    """The sums of all buckets."""


class ReconciliationProgress(Snapshot, frozen=True, kw_only=True):
    """How far the comparison of the catalog with the blobs on the disk is."""

    started: float
    checked: int = 0
    """Directories of blobs that are compared."""
    directories: int
    """All of them."""


class LoopLag(Snapshot, frozen=True, kw_only=True):
    """How late the engine's event loop was, in seconds."""

    max: float = 0.0
    """The most within the last minute."""
    p99: float = 0.0
    """At most so late in 99 of 100 samples of the last minute."""
    stalls: int = 0
    """How often since the start something held the loop for long enough to be logged."""


class MirrorSnapshot(Snapshot, frozen=True, kw_only=True):
    """Where every image is one of the source registry *namespace*."""

    namespace: str
    """``docker.io``"""
    address: str
    """Where clients find it: ``127.0.0.1:5002``, or the host name and the registry's port."""
    has_tls: bool = False


class EngineStatus(Snapshot, frozen=True, kw_only=True):
    """Figures and notices of the engine."""

    version: str
    address: str
    """Where container clients find the registry: ``127.0.0.1:5000``."""
    has_tls: bool = False
    """Whether it speaks TLS there."""
    mirrors: tuple[MirrorSnapshot, ...] = ()
    started: float
    rules: int
    rules_limit: int
    credential_sets: int
    repositories: int
    blobs_size: int
    """Cached bytes: all blobs, and what counts of the catalog."""
    space_free: int
    """Bytes left on the file system of the data directory."""
    space_limit: int = 0
    """Bytes that may be cached: the limit of the settings, or less where other data needs the file
    system's space."""
    pulls_running: int
    speed: float
    """From all sources together."""
    served: int = 0
    """Bytes sent to clients since the start."""
    from_source: int = 0
    """Bytes fetched from sources since the start."""
    last_day: ActivityCounts = ActivityCounts()
    """The last 24 hours, including the time before the start."""
    revision: int = 0
    """A number that changes whenever a listing of rules, credential sets or repositories does, and
    at each start."""
    notices: tuple[str, ...] = ()
    """What an administrator must know now: a document with an error, an unhealthy credential set, a
    full disk."""
    freshness: str = "5 min"
    """The default tag lifetime: ``always``, ``never`` or ``5 min``."""
    demo: bool = False
    read_only: bool = False
    reconciliation: ReconciliationProgress | None = None
    """The comparison of the catalog with the disk that is under way, as after each start."""
    loop_lag: LoopLag = LoopLag()
    anonymous_may_read: bool = True
    """Whether readers who do not sign in may read rules that say nothing about readers."""
    anonymous_may_read_something: bool = True
    """Whether readers who do not sign in may read any rule: one may be open to everyone."""
    can_sign_in: bool = False
    """Whether readers can sign in: there is a password file, or a personal token."""
    certificate_expires: float | None = None
    """When the registry's certificate expires; None: there is none, or that is not known."""


class VerificationSnapshot(Snapshot, frozen=True, kw_only=True):
    """A verification of all cached blobs.

    Sizes are in bytes, *speed_limit* in bytes per second (None: no limit).
    """

    state: VerificationState
    started: float
    ended: float | None = None
    speed_limit: int | None = None
    total: int = 0
    """Blobs that were cached when it started."""
    total_size: int = 0
    checked: int = 0
    """Blobs that were hashed."""
    checked_size: int = 0
    wrong: int = 0
    """Blobs whose bytes do not match their digest; removed, and fetched at the next pull."""
    wrong_digests: tuple[str, ...] = ()
    """The digests of the first hundred of them."""
    missing: int = 0
    """Blobs whose file is gone."""
    unreadable: int = 0
    """Blobs whose file could not be opened; they stay."""
    error_message: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether it is complete and found no problem."""
        return self.state is VerificationState.COMPLETED and not (
            self.wrong or self.missing or self.unreadable
        )


class EvictedImage(Snapshot, frozen=True, kw_only=True):
    """An image that was evicted, or would be."""

    repository: str
    tags: tuple[str, ...]
    """Tags that point to it or to an index above it; they are removed when no other image is left
    behind them."""
    digest: str
    platform: str | None
    freed: int
    """Bytes, without those that it shares with an image that stays; what evicted images share
    counts for the last of them."""
    last_used: float


class EvictionSnapshot(Snapshot, frozen=True, kw_only=True):
    """An eviction, or the preview of one."""

    dry_run: bool
    images: tuple[EvictedImage, ...]
    """The evicted images, the least recently used first."""
    freed: int
    """Bytes that are freed."""
    cached: int = msgspec.field(name="held")
    """Cached bytes before the eviction."""
    goal: int
    """Cached bytes after which eviction stops."""
    limit: int
    """Bytes that may be cached."""
    shortfall: int = 0
    """Bytes by which the goal is missed, because what is left is locked, is being pulled, or was
    used within the last minute."""
    locked: int = 0
    """Bytes of blobs that locked images need."""
    in_use: int = 0
    """Bytes of other blobs of images that are being pulled; 0 where the goal is reached."""
    recent: int = 0
    """Bytes of other blobs of images that were used within the last minute; 0 where the goal is
    reached."""
    cancelled: bool = False
    """Whether it was cancelled before the goal was reached."""


class EvictionProgress(Snapshot, frozen=True, kw_only=True):
    """How far an eviction has come."""

    state: EvictionState
    started: float
    ended: float | None = None
    total: int
    """Images that are to be evicted."""
    evicted: int
    """Images that have been evicted."""
    freed: int
    """Bytes that have been freed."""


class RefreshedTag(Snapshot, frozen=True, kw_only=True):
    """The answer of a source registry about a tag that a user refreshed."""

    repository: str
    tag: str
    source_repository: str
    digest: str
    """The digest that the tag points to now."""
    before: str | None
    """The digest that it pointed to before; None: the tag was not cached."""
    gone: bool = False
    """The source no longer has the tag; what is cached of it stays."""
    problem: str | None = None
    """Why the source did not answer; None: it did."""

    @property
    def moved(self) -> bool:
        """Whether it points to another digest than before."""
        return self.before != self.digest


class Problem(Snapshot, frozen=True, kw_only=True):
    """A refusal of the engine, for the field that caused it."""

    code: str
    message: str
    field: str | None = None
    """One of ``name sourceRepository targetRepository credentialSet freshness readers loginServer
    usernameSecretIdentifier passwordSecretIdentifier``."""


class CheckedRule(Snapshot, frozen=True, kw_only=True):
    """The validation of a draft of a rule.

    Fields that the draft leaves out are neither judged nor filled.
    """

    source_repository: str | None
    """In its normal form: ``docker.io/library/nginx`` for ``docker.io/nginx``."""
    login_server: str | None
    sign_in: SignIn | None
    proposed_target: str | None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
    """``library/ was put in front: Docker Hub keeps its official images there.``"""


class CheckedCredentialSet(Snapshot, frozen=True, kw_only=True):
    """The validation of a draft of a credential set."""

    problems: tuple[Problem, ...] = ()


class TriedSignIn(Snapshot, frozen=True, kw_only=True):
    """The outcome of a sign-in with identifiers of no stored credential set."""

    health: HealthStatus
    error_code: str | None = None
    error_message: str | None = None


class NearRule(Snapshot, frozen=True, kw_only=True):
    """A rule that nearly answers for an image."""

    name: str
    source_repository: str
    target_repository: str
    why: str
    """``Its target is library/nginx, without what follows.``"""


class RuleMatch(Snapshot, frozen=True, kw_only=True):
    """Which cache rule answers for an image."""

    image: str
    """The image as it was asked for."""
    repository: str | None
    """Its repository here; None: a source reference that no rule covers."""
    tag: str | None
    digest: str | None
    rule: str | None
    """None: no rule answers."""
    source_repository: str | None
    """The repository that the rule pulls from, with login server: ``docker.io/library/nginx``."""
    credential_set: str | None
    pull: str | None
    """The name by which a client pulls it: ``127.0.0.1:5000/library/nginx:1.27``."""
    cached_state: CachedState = msgspec.field(name="holding")
    """How much of the named tag or digest is cached; without either, ``whole`` says that something
    of the repository is."""
    why_not: str | None = None
    """Why no rule answers, and what to do."""
    others: tuple[str, ...] = ()
    """Other repositories here that other rules pull from the same source repository."""
    near: tuple[NearRule, ...] = ()
    """Up to five similar rules where none answers, the nearest first."""


class ImportEntry(Snapshot, frozen=True, kw_only=True):
    """A rule or credential set of an import."""

    kind: str
    """``rule`` or ``credentialSet``"""
    name: str
    outcome: ImportOutcome
    line: int | None
    """The line where it starts in the text, counted from 1."""
    source_repository: str | None = None
    """The source of a rule, in its normal form where it is valid."""
    target_repository: str | None = None
    credential_set: str | None = None
    login_server: str | None = None
    """The login server of a credential set."""
    username_id: str | None = None
    """The identifier of a credential set's user name; None where it is invalid, because it may be
    the secret itself."""
    password_id: str | None = None
    runs_program: bool = False
    """Whether the engine runs a program at each sign-in with this credential set."""
    problems: tuple[Problem, ...] = ()


class ImportProblem(Snapshot, frozen=True, kw_only=True):
    """A problem of the text of an import as a whole."""

    code: str
    message: str
    line: int | None = None


class ImportPlan(Snapshot, frozen=True, kw_only=True):
    """The plan or the result of an import; it is applied completely or not at all."""

    entries: tuple[ImportEntry, ...]
    """Credential sets first, then rules, each in the order of the text."""
    problems: tuple[ImportProblem, ...] = ()
    """Problems that belong to no entry."""
    applied: bool = False

    @property
    def runs_programs(self) -> tuple[ImportEntry, ...]:
        """The credential sets to be created that have the engine run a program."""
        return tuple(
            entry
            for entry in self.entries
            if entry.outcome is ImportOutcome.CREATE and entry.runs_program
        )

    @property
    def possible(self) -> bool:
        """Whether it can be applied."""
        return not self.problems and all(
            entry.outcome is not ImportOutcome.CONFLICT for entry in self.entries
        )

    def count(self, outcome: ImportOutcome) -> int:
        """How many entries have an outcome."""
        return sum(entry.outcome is outcome for entry in self.entries)


class DeletionPlan(Snapshot, frozen=True, kw_only=True):
    """What a deletion removes and what stays.

    Lists have at most a hundred names; counts are of all.
    """

    kind: str
    """``repository``, ``tag``, ``rule`` or ``credentialSet``"""
    name: str
    refused_code: str | None = None
    refused: str | None = None
    """Why it can't be deleted, and what to do; None: it can."""
    tags: tuple[str, ...] = ()
    """Tags that are removed."""
    tag_count: int = 0
    manifest_count: int = 0
    """Manifests that are removed."""
    freed: int = 0
    """Bytes that are freed."""
    shared: int = 0
    """Bytes that stay, because others need them too."""
    untagged: int = 0
    """Bytes that stay without a tag, until they are evicted, deleted by digest, or tagged again."""
    pulls: int = 0
    """Running pulls that are cancelled."""
    fetched_again_by: str | None = None
    """The cache rule through which the next pull fetches it again."""
    repositories: tuple[str, ...] = ()
    """Repositories that stay cached without a rule."""
    repository_count: int = 0
    used_by: tuple[str, ...] = ()
    """Rules that use the credential set."""

    @property
    def possible(self) -> bool:
        """Whether it can be deleted."""
        return self.refused is None


class Finding(Snapshot, frozen=True, kw_only=True):
    """The result of one check of ``entrepot doctor``."""

    about: str
    """A login server, or ``this machine``."""
    check: str
    """Of a source: ``name connection certificate registry sign-in manifest allowance``; of the
    machine: ``space data directory open files proxy clock readers``."""
    outcome: Outcome
    what: str
    advice: str = ""
    cause: str | None = None
    """The fault behind it, where one is recognised (`entrepot.causes`)."""


class DoctorReport(Snapshot, frozen=True, kw_only=True):
    """The results of ``entrepot doctor``.

    Checks that depend on a failed one are skipped.
    """

    findings: tuple[Finding, ...]


class Event(Snapshot, frozen=True, kw_only=True):
    """Something that happened, for the event stream and the log."""

    time: float
    kind: str
    """One of `EventKind`, or a kind of a newer engine."""
    message: str
    subject: str | None = None
    severity: Severity = Severity.INFO
    """Engines of older versions do not send it."""
