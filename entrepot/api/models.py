"""Read-only pictures of a running engine: what `entrepot.api.client.CacheClient` returns and what
screens draw.

All are frozen and hold plain values, so a screen can be tested with pictures of its own. They are
also the JSON of ``/entrepot/v1/`` (field names in camelCase, as in ACR's API). Times are seconds
since the epoch (UTC); sizes and counts of bytes are integers; speeds are bytes per second.
"""

from __future__ import annotations

import msgspec

from entrepot.core.states import (
    CachedState,
    HealthStatus,
    ImportOutcome,
    LayerState,
    Outcome,
    PullState,
    SignIn,
    VerificationState,
)


class Snapshot(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The base of all pictures."""


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
    """Of the image manifest; not known in the first moments."""
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
    """Of all layers and the config."""
    received: int = 0
    """Of ``size``, what is here: held before, or arrived."""
    speed: float = 0.0
    """From the source, in bytes per second, over the last seconds."""
    time_left: float | None = None
    from_source: int = 0
    to_clients: int = 0
    waiting_clients: int = 0
    """Clients that read along now, on all its blobs together."""
    layer_count: int = 0
    """Layers and the config; a listing leaves ``layers`` of an ended pull empty."""
    asked_by: tuple[str, ...] = ()
    """Addresses of clients, ``cli`` or ``dashboard``."""
    error_code: str | None = None
    error_message: str | None = None
    error_cause: str | None = None
    """The fault behind it, where one is recognised: ``clock-wrong``, ``proxy-sign-in``, …
    (`entrepot.causes`)."""

    @property
    def image(self) -> str:
        """What is being pulled, as one would type it: ``library/nginx:1.27``."""
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
    """Cached ones for which it answers."""
    size: int = 0
    """Bytes held for them; what several of them share is counted for each."""
    pulls: int = 0
    last_pull: float | None = None
    freshness: str | None = None
    """Of its own: ``always``, ``never`` or ``10 min``; None: as the settings say."""
    freshness_in_force: str = "5 min"
    """Its own, or that of the settings."""
    requests_made: int = 0
    """Manifests that were fetched from the source: what Docker Hub counts against its limit."""
    requests_saved: int = 0
    """Manifests that clients got without such a request, for which they would have asked the source
    themselves."""


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
    """The cache rule that answers for it now; None when the rule was deleted."""
    source_repository: str
    """Where it came from, with its login server."""
    tags: int
    manifests: int
    size: int
    """Bytes held for it, each blob counted once, shared ones too."""
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
    """Of which an image is held whole or in part."""
    size: int
    """Bytes held behind this tag."""
    cached: float
    """When the manifest that it points to now came in."""
    checked: float
    """When the source registry was last asked."""
    last_pull: float | None
    fresh_until: float | None
    """None: it is never checked again."""
    gone: bool = False
    """It is no longer at the source; kept and served all the same."""
    locked: bool = False
    """What it points at is not evicted, and it can't be deleted."""


class RepositoryDetail(Snapshot, frozen=True, kw_only=True):
    """A cached repository with its tags."""

    repository: RepositorySnapshot
    tags: tuple[TagSnapshot, ...]


class ImageBlob(Snapshot, frozen=True, kw_only=True):
    """A layer or the config of an image, and who else needs it."""

    digest: str
    media_type: str
    size: int | None
    """In bytes: that of the copy, else what the manifest states; None where neither is known."""
    held: bool
    shared_images: int = 0
    """Images of other repositories, and of this one behind other tags, that have it too. Images
    behind the same tag are not among them."""
    shared_repositories: int = 0
    """Other repositories that have it too."""
    shared_with: tuple[str, ...] = ()
    """One or two of them as examples: ``library/nginx:1.27``, or ``library/nginx`` where no tag
    points there."""


class TagImage(Snapshot, frozen=True, kw_only=True):
    """A manifest behind a tag: one image of one platform, or an attestation about one."""

    digest: str
    media_type: str
    platform: str | None
    size: int | None
    """Bytes of the manifest and all that it needs; None as long as the manifest itself is not held."""
    held_size: int
    """Bytes that are held of it."""
    holding: CachedState
    last_used: float | None
    """None: it was not asked for since it came in, or is not held."""
    locked: bool = False
    attests: str | None = None
    """The digest of the image about which this is an attestation (a bill of materials, or where it
    was built); None: it is an image."""
    config: ImageBlob | None = None
    layers: tuple[ImageBlob, ...] = ()


class TagDetail(Snapshot, frozen=True, kw_only=True):
    """A tag, and all that is behind it."""

    repository: str
    tag: TagSnapshot
    media_type: str
    """Of what the tag points at."""
    is_index: bool
    """It leads to images of several platforms; else it is one image itself, the only one of
    ``images``."""
    images: tuple[TagImage, ...]
    """In the order of the index."""
    own_size: int
    """Bytes held that nothing but this tag needs."""
    shared_size: int
    """Bytes held that other tags, images or repositories need too."""
    also_tagged: tuple[str, ...] = ()
    """Other tags of the repository that point at the very same, twenty at the most."""


class SourceRegistrySnapshot(Snapshot, frozen=True, kw_only=True):
    """A source registry that rules may pull from."""

    name: str
    """``Docker Hub``"""
    login_server: str
    """``docker.io``, or a pattern: ``*.azurecr.io``"""
    sign_in: SignIn
    rules: int = 0
    reachable: bool | None = None
    """None before anything was asked of it."""
    problem: str | None = None
    advice: str | None = None
    """What to do about the problem."""
    cause: str | None = None
    """The fault behind it, where one is recognised: ``clock-wrong``, ``proxy-sign-in``, …
    (`entrepot.causes`)."""
    at_fault: str | None = None
    """Who can cure it: ``machine``, ``network`` or ``source``."""
    allowance_remaining: int | None = None
    allowance_limit: int | None = None
    allowance_resets: float | None = None
    allowance_window: float | None = None
    """Seconds in which the limit is counted: 21,600 at Docker Hub."""
    unreachable_since: float | None = None
    """It could not be reached, and since then only what is held is served; None: it is asked as
    usual."""
    next_try: float | None = None
    """When it is next tried whether it can be reached again."""
    declared: bool = False
    """It comes from settings.toml and not from the table."""


class ActivityCounts(Snapshot, frozen=True, kw_only=True):
    """What clients got, and what it took."""

    hits: int = 0
    """Manifests and blobs that were answered from what is held."""
    misses: int = 0
    """Manifests and blobs that had to be fetched for the answer."""
    served: int = 0
    """Bytes of blobs that went to clients."""
    from_source: int = 0
    """Bytes of blobs that came from sources."""
    requests_saved: int = 0
    """Manifests that clients got without a request that Docker Hub would have counted."""

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
    """288 of them without a gap, oldest first; the last one is under way."""
    total: ActivityCounts
    """Of all buckets together."""


class EngineStatus(Snapshot, frozen=True, kw_only=True):
    """The engine in one look."""

    version: str
    address: str
    """Where container clients find the registry: ``127.0.0.1:5000``."""
    started: float
    rules: int
    rules_limit: int
    credential_sets: int
    repositories: int
    blobs_size: int
    """Bytes held: all blobs, and what counts of the catalog."""
    space_free: int
    """Bytes left on the file system of the data directory."""
    space_limit: int = 0
    """Bytes that may be held: the limit of the settings, or less where other data needs the file
    system's space."""
    pulls_running: int
    speed: float
    """From all sources together."""
    served: int = 0
    """Bytes sent to clients since the start."""
    from_source: int = 0
    """Bytes fetched from sources since the start."""
    last_day: ActivityCounts = ActivityCounts()
    """Of the last 24 hours, those before the start too."""
    revision: int = 0
    """Another number whenever a listing of rules, credential sets or repositories would show
    something else, and after each start."""
    notices: tuple[str, ...] = ()
    """What an administrator should know now: a document with an error, an unhealthy credential set,
    a full disk."""
    freshness: str = "5 min"
    """How long tags are believed where their rule does not say: ``always``, ``never`` or ``5 min``."""
    demo: bool = False
    read_only: bool = False


class VerificationSnapshot(Snapshot, frozen=True, kw_only=True):
    """A verification of all cached blobs. Sizes are in bytes, *speed_limit* in bytes per second;
    None: none."""

    state: VerificationState
    started: float
    ended: float | None = None
    speed_limit: int | None = None
    total: int = 0
    """Blobs that were cached when it began."""
    total_size: int = 0
    checked: int = 0
    """Blobs that were hashed."""
    checked_size: int = 0
    wrong: int = 0
    """Blobs whose bytes are not those of their digest. They are removed, and fetched again at their
    next pull."""
    wrong_digests: tuple[str, ...] = ()
    """Of the first hundred."""
    missing: int = 0
    """Blobs whose file is gone."""
    unreadable: int = 0
    """Blobs whose file could not be opened; they stay."""
    error_message: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether it came to its end and nothing was wrong."""
        return self.state is VerificationState.COMPLETED and not (
            self.wrong or self.missing or self.unreadable
        )


class EvictedImage(Snapshot, frozen=True, kw_only=True):
    """An image that was evicted, or would be."""

    repository: str
    tags: tuple[str, ...]
    """Those that point at it or at an index above it; they go when no other image is left behind
    them."""
    digest: str
    platform: str | None
    freed: int
    """Bytes. What it shares with an image that stays is not among them, and what evicted images
    share is counted for the one that goes last."""
    last_used: float


class EvictionSnapshot(Snapshot, frozen=True, kw_only=True):
    """An eviction that was done, or of a dry run that would be."""

    dry_run: bool
    images: tuple[EvictedImage, ...]
    """In the order in which they go: the one used least recently first."""
    freed: int
    """Bytes of all of them."""
    held: int
    """Bytes held before."""
    goal: int
    """Bytes that should be held at most."""
    limit: int
    """Bytes that may be held."""
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


class RefreshedTag(Snapshot, frozen=True, kw_only=True):
    """What the source said about a tag when it was asked on purpose."""

    repository: str
    tag: str
    source_repository: str
    digest: str
    """Where the tag points here now."""
    before: str | None
    """Where it pointed before; None: it was not held."""
    gone: bool = False
    """The source has no such tag any more; what is held of it stays."""
    problem: str | None = None
    """Why the source could not be asked; None: it was."""

    @property
    def moved(self) -> bool:
        """Whether it points elsewhere than before."""
        return self.before != self.digest


class Problem(Snapshot, frozen=True, kw_only=True):
    """A refusal of the engine, for the field that caused it."""

    code: str
    message: str
    field: str | None = None
    """One of ``name sourceRepository targetRepository credentialSet freshness loginServer
    usernameSecretIdentifier passwordSecretIdentifier``."""


class CheckedRule(Snapshot, frozen=True, kw_only=True):
    """A rule that does not exist yet, as the engine sees it. Fields that the draft leaves out are
    neither judged nor filled."""

    source_repository: str | None
    """In its normal form: ``docker.io/library/nginx`` for ``docker.io/nginx``."""
    login_server: str | None
    sign_in: SignIn | None
    proposed_target: str | None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
    """``library/ was put in front: Docker Hub keeps its official images there.``"""


class CheckedCredentialSet(Snapshot, frozen=True, kw_only=True):
    """A credential set that does not exist yet, as the engine sees it."""

    problems: tuple[Problem, ...] = ()


class TriedSignIn(Snapshot, frozen=True, kw_only=True):
    """How a sign-in went with a user name and a password that belong to no credential set yet."""

    health: HealthStatus
    error_code: str | None = None
    error_message: str | None = None


class NearRule(Snapshot, frozen=True, kw_only=True):
    """A rule that does not answer for an image, though it nearly does."""

    name: str
    source_repository: str
    target_repository: str
    why: str
    """``Its target is library/nginx, without what follows.``"""


class RuleMatch(Snapshot, frozen=True, kw_only=True):
    """Which cache rule answers for an image."""

    image: str
    """As it was asked for."""
    repository: str | None
    """Under which it is found here; None: a source reference to which no rule leads."""
    tag: str | None
    digest: str | None
    rule: str | None
    """None: no rule answers."""
    source_repository: str | None
    """Where the rule pulls it from, with the login server: ``docker.io/library/nginx``."""
    credential_set: str | None
    pull: str | None
    """What a client writes to get it: ``127.0.0.1:5000/library/nginx:1.27``."""
    holding: CachedState
    """How much of the named tag or digest is held, or of the repository when neither was named
    (then ``whole`` stands for: it holds something)."""
    why_not: str | None = None
    """Why no rule answers, and what to do."""
    others: tuple[str, ...] = ()
    """Other repositories here that come from the same source repository through other rules."""
    near: tuple[NearRule, ...] = ()
    """Where no rule answers: up to five that come near, the nearest first."""


class ImportEntry(Snapshot, frozen=True, kw_only=True):
    """A rule or credential set of an import."""

    kind: str
    """``rule`` or ``credentialSet``"""
    name: str
    outcome: ImportOutcome
    line: int | None
    """Where it begins in the text, counted from 1."""
    source_repository: str | None = None
    """Of a rule, in its normal form where it is valid."""
    target_repository: str | None = None
    credential_set: str | None = None
    login_server: str | None = None
    """Of a credential set."""
    username_id: str | None = None
    """Of a credential set: where its user name is kept; None where the text has no valid
    identifier, which may be the secret itself."""
    password_id: str | None = None
    runs_program: bool = False
    """Whether the engine runs a program each time it signs in with this credential set."""
    problems: tuple[Problem, ...] = ()


class ImportProblem(Snapshot, frozen=True, kw_only=True):
    """Something that is wrong with the text of an import or with all of it together."""

    code: str
    message: str
    line: int | None = None


class ImportPlan(Snapshot, frozen=True, kw_only=True):
    """What an import would do, or did. It is carried out as a whole or not at all."""

    entries: tuple[ImportEntry, ...]
    """Credential sets first, then rules, each in the order of the text."""
    problems: tuple[ImportProblem, ...] = ()
    """Those that belong to no entry."""
    applied: bool = False

    @property
    def runs_programs(self) -> tuple[ImportEntry, ...]:
        """The credential sets that would be made and have the engine run a program."""
        return tuple(
            each
            for each in self.entries
            if each.outcome is ImportOutcome.CREATE and each.runs_program
        )

    @property
    def possible(self) -> bool:
        """Whether it can be carried out."""
        return not self.problems and all(
            each.outcome is not ImportOutcome.CONFLICT for each in self.entries
        )

    def count(self, outcome: ImportOutcome) -> int:
        """How many entries have an outcome."""
        return sum(each.outcome is outcome for each in self.entries)


class DeletionPlan(Snapshot, frozen=True, kw_only=True):
    """What goes and what stays when something is deleted. Lists hold a hundred names at the most;
    counts are of all."""

    kind: str
    """``repository``, ``tag``, ``rule`` or ``credentialSet``"""
    name: str
    refused_code: str | None = None
    refused: str | None = None
    """Why it can't be deleted, and what to do; None: it can be."""
    tags: tuple[str, ...] = ()
    """That go."""
    tag_count: int = 0
    manifest_count: int = 0
    """Manifests that go."""
    freed: int = 0
    """Bytes."""
    shared: int = 0
    """Bytes of it that stay, because others need them too."""
    untagged: int = 0
    """Bytes that stay although no tag leads to them any more: until they are evicted, deleted by
    digest, or tagged again."""
    pulls: int = 0
    """Pulls under way that are ended."""
    fetched_again_by: str | None = None
    """The cache rule through which the next pull fetches it again."""
    repositories: tuple[str, ...] = ()
    """That stay cached, with no rule for them any more."""
    repository_count: int = 0
    used_by: tuple[str, ...] = ()
    """Rules that use the credential set."""

    @property
    def possible(self) -> bool:
        """Whether it can be deleted."""
        return self.refused is None


class Finding(Snapshot, frozen=True, kw_only=True):
    """What a check of ``entrepot doctor`` found."""

    about: str
    """A login server, or ``this machine``."""
    check: str
    """Of a source: ``name connection certificate registry sign-in manifest allowance``; of the
    machine: ``space data directory open files proxy clock``."""
    outcome: Outcome
    what: str
    advice: str = ""
    cause: str | None = None
    """The fault behind it, where one is recognised (`entrepot.causes`)."""


class DoctorReport(Snapshot, frozen=True, kw_only=True):
    """All that ``entrepot doctor`` found. What follows from a failure was not looked at."""

    findings: tuple[Finding, ...]


class Event(Snapshot, frozen=True, kw_only=True):
    """Something that happened, for the event stream and the log."""

    time: float
    kind: str
    """``rule-created``, ``pull-started``, ``pull-ended``, ``source-failed``, …"""
    message: str
    subject: str | None = None
    severity: str = "info"
    """``info``, ``warning`` or ``error``; engines of older versions do not tell."""
