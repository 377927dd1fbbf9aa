"""States and kinds that every layer names: enumerations without behaviour, light enough for every
command to import."""

from __future__ import annotations

from enum import StrEnum


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


class HealthStatus(StrEnum):
    """Whether a sign-in with a credential set works (ACR's words)."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    UNKNOWN = "Unknown"


class CachedState(StrEnum):
    """How much of an image or a repository is cached."""

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
        """Whether nothing more will happen to it."""
        return self is not VerificationState.RUNNING


class ImportOutcome(StrEnum):
    """What becomes of one entry of an import."""

    CREATE = "create"
    UNCHANGED = "unchanged"
    """The very same is in force already."""
    CONFLICT = "conflict"
    """It can't be: see its problems."""


class Outcome(StrEnum):
    """How a check of ``entrepot doctor`` ended."""

    OK = "ok"
    WARNING = "warn"
    """Nothing is broken yet."""
    FAILED = "FAIL"
