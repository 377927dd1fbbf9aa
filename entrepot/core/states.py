"""States that every layer names: enumerations, quick to import."""

from __future__ import annotations

from enum import StrEnum


class SignIn(StrEnum):
    """Whether a source registry takes credentials (`entrepot.core.registries`)."""

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
        """Whether it has ended."""
        return self in {PullState.COMPLETED, PullState.FAILED, PullState.CANCELLED}


class LayerState(StrEnum):
    """How far one blob of a pull has come."""

    WAITING = "waiting"
    RUNNING = "running"
    RESUMED = "resumed"
    """Running again after the source cut the connection."""
    VERIFIED = "verified"
    """Complete, its digest is right, and it is cached."""
    CACHED = "held"
    """It was cached before this pull began."""
    FAILED = "failed"


class HealthStatus(StrEnum):
    """Whether a sign-in with a credential set works (ACR's words)."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    UNKNOWN = "Unknown"


class CachedState(StrEnum):
    """How much of an image or a repository is cached; `entrepot.api.labels` has the words."""

    CACHED = "whole"
    PARTLY_CACHED = "part"
    NOT_CACHED = "nothing"


class VerificationState(StrEnum):
    """How far a verification of the cached blobs has come."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self is not VerificationState.RUNNING


class EvictionState(StrEnum):
    """How far an eviction has come."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self is not EvictionState.RUNNING


class ImportOutcome(StrEnum):
    """What becomes of one entry of an import."""

    CREATE = "create"
    UNCHANGED = "unchanged"
    """The same is in force already."""
    CONFLICT = "conflict"
    """It can't be created: see its problems."""


class Outcome(StrEnum):
    """The result of a check of ``entrepot doctor``."""

    OK = "ok"
    WARNING = "warn"
    """Nothing fails yet."""
    FAILED = "FAIL"


class TagImport(StrEnum):
    """What the import of a tag did."""

    IMPORTED = "imported"
    """The tag is new here."""
    MOVED = "moved"
    """It pointed elsewhere here."""
    UNCHANGED = "unchanged"
    """It pointed there already."""
    NEWER_HERE = "newer-here"
    """Its source was asked later here: it stays as it is."""
    INDEX_HERE = "index-here"
    """It points here at an index that lists the imported image: it stays as it is."""
    WITHOUT_MANIFEST = "without-manifest"
    """Its manifest is not cached: nothing was changed."""
