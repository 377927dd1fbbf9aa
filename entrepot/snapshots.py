"""Read-only pictures of a running engine: what `entrepot.client.CacheClient` returns and what screens draw.

All are frozen and hold plain values, so a screen can be tested with pictures of its own. They are also the JSON of ``/entrepot/v1/``
(field names in camelCase, as in ACR's API). Times are seconds since the epoch (UTC); sizes and counts of bytes are integers; speeds are bytes per second.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Snapshot(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The base of all pictures."""


class SignIn(StrEnum):
    """Whether a source registry lets us in with credentials (facts: upstream table)."""

    NONE = "none"
    """Unauthenticated pulls only: a rule may not have a credential set."""
    OPTIONAL = "optional"
    REQUIRED = "required"
    """A rule must have a credential set."""


class PullState(StrEnum):
    """How far a pull has come."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self in {PullState.COMPLETED, PullState.FAILED, PullState.CANCELLED}


class LayerState(StrEnum):
    """How far one blob of a pull has come."""

    WAITING = "waiting"
    RUNNING = "running"
    RESUMED = "resumed"
    """Running again after the source broke off."""
    VERIFIED = "verified"
    """Whole, its digest is right, and it is held."""
    HELD = "held"
    """It was held before this pull began."""
    FAILED = "failed"


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
    asked_by: tuple[str, ...] = ()
    """Addresses of clients, ``cli`` or ``dashboard``."""
    error_code: str | None = None
    error_message: str | None = None

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
    pulls: int = 0
    last_pull: float | None = None
    freshness: str | None = None
    """Of its own: ``always``, ``never`` or ``10 min``; None: as the settings say."""
    freshness_in_force: str = "5 min"
    """Its own, or that of the settings."""
    requests_made: int = 0
    """Manifests that were fetched from the source: what Docker Hub counts against its limit."""
    requests_saved: int = 0
    """Manifests that clients got without such a request, for which they would have asked the source themselves."""


class HealthStatus(StrEnum):
    """Whether a sign-in with a credential set works (ACR's words)."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    UNKNOWN = "Unknown"


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


class UpstreamSnapshot(Snapshot, frozen=True, kw_only=True):
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
    allowance_remaining: int | None = None
    allowance_limit: int | None = None
    allowance_resets: float | None = None
    allowance_window: float | None = None
    """Seconds in which the limit is counted: 21,600 at Docker Hub."""
    unreachable_since: float | None = None
    """It could not be reached, and since then only what is held is served; None: it is asked as usual."""
    next_try: float | None = None
    """When it is next tried whether it can be reached again."""
    declared: bool = False
    """It comes from settings.toml and not from the table."""


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
    """Bytes held."""
    space_free: int
    """Bytes left on the file system of the data directory."""
    space_limit: int = 0
    """Bytes that may be held: the limit of the settings, or less where other data needs the file system's space."""
    pulls_running: int
    speed: float
    """From all sources together."""
    served: int = 0
    """Bytes sent to clients since the start."""
    from_source: int = 0
    """Bytes fetched from sources since the start."""
    notices: tuple[str, ...] = ()
    """What an administrator should know now: a document with an error, an unhealthy credential set, a full disk."""
    demo: bool = False
    read_only: bool = False


class EvictedImage(Snapshot, frozen=True, kw_only=True):
    """An image that was evicted, or would be."""

    repository: str
    tags: tuple[str, ...]
    """Those that point at it or at an index above it; they go when no other image is left behind them."""
    digest: str
    platform: str | None
    freed: int
    """Bytes. What it shares with an image that stays is not among them, and what evicted images share is counted for the one that goes last."""
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
    """Bytes by which the goal is missed, because what is left is locked or in use."""


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
    """One of ``name sourceRepository targetRepository credentialSet freshness loginServer usernameSecretIdentifier passwordSecretIdentifier``."""


class CheckedRule(Snapshot, frozen=True, kw_only=True):
    """A rule that does not exist yet, as the engine sees it. Fields that the draft leaves out are neither judged nor filled."""

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


class Outcome(StrEnum):
    """How a check of ``entrepot doctor`` ended."""

    OK = "ok"
    WARNING = "warn"
    """Nothing is broken yet."""
    FAILED = "FAIL"


class Finding(Snapshot, frozen=True, kw_only=True):
    """What a check of ``entrepot doctor`` found."""

    about: str
    """A login server, or ``this machine``."""
    check: str
    """Of a source: ``name connection certificate registry sign-in manifest allowance``; of the machine: ``space data directory open files clock``."""
    outcome: Outcome
    what: str
    advice: str = ""


class Examination(Snapshot, frozen=True, kw_only=True):
    """All that ``entrepot doctor`` found. What follows from a failure was not looked at."""

    findings: tuple[Finding, ...]


class Event(Snapshot, frozen=True, kw_only=True):
    """Something that happened, for the event stream and the log."""

    time: float
    kind: str
    """``rule-created``, ``pull-started``, ``pull-ended``, ``source-failed``, …"""
    message: str
    subject: str | None = None
