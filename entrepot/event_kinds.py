"""What can happen in an engine, and how bad it is.

The values are part of the API: scripts match them in the event stream and in the JSON log.
"""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """How bad an event is."""

    INFO = "info"
    """As it should be."""
    WARNING = "warning"
    """Something may need attention."""
    ERROR = "error"
    """The engine can't do part of its work."""


class EventKind(StrEnum):
    """What happened."""

    ENGINE_STARTED = "engine-started"
    ENGINE_STOPPING = "engine-stopping"
    ENGINE_READY = "engine-ready"
    ENGINE_UNREADY = "engine-unready"
    SOCKET_LOST = "socket-lost"
    SOCKET_RESTORED = "socket-restored"

    CERTIFICATE_READ = "certificate-read"
    CERTIFICATE_REFUSED = "certificate-refused"
    CERTIFICATE_EXPIRED = "certificate-expired"

    RULE_CREATED = "rule-created"
    RULE_UPDATED = "rule-updated"
    RULE_DELETED = "rule-deleted"
    IMPORTED = "imported"
    DOCUMENTS_READ = "documents-read"
    DOCUMENTS_REFUSED = "documents-refused"

    CREDENTIAL_SET_CREATED = "credential-set-created"
    CREDENTIAL_SET_UPDATED = "credential-set-updated"
    CREDENTIAL_SET_DELETED = "credential-set-deleted"
    CREDENTIAL_SET_HEALTHY = "credential-set-healthy"
    CREDENTIAL_SET_UNHEALTHY = "credential-set-unhealthy"
    CREDENTIAL_SET_UNKNOWN = "credential-set-unknown"

    READERS_READ = "readers-read"
    READERS_REFUSED = "readers-refused"
    GUESSES_SLOWED = "guesses-slowed"
    TOKEN_CREATED = "token-created"
    TOKEN_REVOKED = "token-revoked"

    SOURCE_REACHABLE = "source-reachable"
    SOURCE_UNREACHABLE = "source-unreachable"

    PULL_STARTED = "pull-started"
    PULL_ENDED = "pull-ended"
    TAG_MOVED = "tag-moved"
    TAG_GONE = "tag-gone"
    MANIFEST_IMPORTED = "manifest-imported"

    REPOSITORY_DELETED = "repository-deleted"
    TAG_DELETED = "tag-deleted"
    MANIFEST_DELETED = "manifest-deleted"
    LOCKED = "locked"
    UNLOCKED = "unlocked"

    EVICTED = "evicted"
    EVICTION_IMPOSSIBLE = "eviction-impossible"
    DISK_REFUSES = "disk-refuses"
    FOREIGN_NAMES = "foreign-names"
    BLOB_DAMAGED = "blob-damaged"
    VERIFICATION_ENDED = "verification-ended"
    CATALOG_HEALED = "catalog-healed"
    CATALOG_RECOVERED = "catalog-recovered"
    CATALOG_READ_ONLY = "catalog-read-only"
