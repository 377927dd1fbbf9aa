"""Every error that a person, a script or a container client can meet, defined once.

::

    EntrepotError
    ├── Refusal                     the engine's own rules say no; nothing was changed
    │   ├── NameInvalid             a rule or credential set name
    │   ├── RepositoryNameInvalid   a repository path, source or target
    │   ├── ReferenceInvalid        a tag, a digest or an image reference
    │   ├── RequestInvalid          a body, a header or a parameter that can't be read
    │   ├── Locked                  a repository, tag or manifest that must not be deleted
    │   ├── EngineReadOnly          a change that is asked of an engine, or by a client, that is read-only
    │   ├── TokenInvalid            a request to the management API on TCP without its token
    │   └── ... (rules.py, credentials.py, upstreams.py, documents.py add theirs)
    ├── NotFound                    a rule, set, repository, tag or pull that is not there
    ├── RegistryError               an answer to a container client: repository, manifest or blob unknown, and so on
    ├── SourceError                 a source registry refused, failed or could not be reached (source/errors.py)
    └── EngineError                 the engine can't start or go on: port, disk, lock, permissions
        └── EngineBusy              too many requests are under way

An error carries *what* happened, a *hint* that says what to do, the *code* that ACR (or we) gave
it, and the *field* that caused it, so that the dashboard can show it beside that field, the
management API can answer it in ACR's shape, and a container client gets it as an OCI error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from entrepot.causes import Cause, CauseCode


class EntrepotError(Exception):
    """Something that the user should hear about in plain words.

    ``code`` is ACR's code where one is known, else ours in the same style; ``status`` the HTTP
    status of the management API; ``oci_code`` and ``oci_status`` what ``/v2/`` answers (OCI
    distribution 1.1, "Error Codes").
    """

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    oci_code: ClassVar[str] = "UNKNOWN"
    oci_status: ClassVar[int] = 500
    source_message: str = ""
    """What a source registry said of its failure, or the source of an engine that is the source.

    Engines in a row hand on the first sentence, and do not quote each other's quotes."""

    def __init__(self, what: str, hint: str = "", *, field: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.field = field
        self.cause: CauseCode | None = None
        """The fault that is behind it, where one is recognised."""

    @classmethod
    def of_cause(cls, cause: Cause) -> Self:
        """The error for a fault, with its sentence and its cure."""
        error = cls(cause.what, cause.hint)
        error.cause = cause.code
        return error

    @property
    def message(self) -> str:
        """What happened, and what to do about it, as one text for a person."""
        return f"{self.what} {self.hint}" if self.hint else self.what

    def __str__(self) -> str:
        return self.message


class Refusal(EntrepotError):
    """The engine's own rules say no. Nothing was changed."""

    code = "BadRequest"
    status = 400
    oci_code = "DENIED"
    oci_status = 400


class NameInvalid(Refusal):
    """The name of a cache rule or credential set is not 5 to 50 of ``[A-Za-z0-9-]`` (Azure REST
    specification, CacheRule.tsp)."""

    code = "InvalidResourceName"


class RepositoryNameInvalid(Refusal):
    """A repository path breaks the grammar of the OCI distribution specification, or carries a tag
    or digest where none may stand."""

    code = "GenericRepositoryNameInvalid"
    oci_code = "NAME_INVALID"


class ReferenceInvalid(Refusal):
    """A tag, digest or image reference breaks the grammar of the OCI distribution specification."""

    code = "ReferenceInvalid"
    oci_code = "MANIFEST_INVALID"


class DigestInvalid(ReferenceInvalid):
    """A digest is not ``sha256:`` or ``sha512:`` followed by lower-case hexadecimal of the right
    length."""

    code = "DigestInvalid"
    oci_code = "DIGEST_INVALID"


class RequestInvalid(Refusal):
    """A body, header or parameter of a request can't be understood."""

    code = "InvalidRequest"
    oci_code = "UNSUPPORTED"


class Locked(Refusal):
    """What is to be deleted is locked (``deleteEnabled: false``). Code and status are those of
    ACR's data API for it."""

    code = "REGISTRY_DISALLOWED_OPERATION"
    status = 405


class EngineReadOnly(Refusal):
    """The engine, or the client that asks, is read-only, and the request would change something."""

    code = "EngineReadOnly"
    status = 403


class TokenInvalid(Refusal):
    """A request to the management API on TCP has no token, or a wrong one (RFC 9110, 15.5.2)."""

    code = "TokenInvalid"
    status = 401
    oci_code = "UNAUTHORIZED"


class NotFound(EntrepotError):
    """A rule, credential set, repository, tag or pull is not there."""

    code = "ResourceNotFound"
    status = 404
    oci_code = "NAME_UNKNOWN"
    oci_status = 404


class RegistryError(EntrepotError):
    """What a container client is told when its request can't be answered."""


class RepositoryUnknown(RegistryError):
    """No cache rule answers for the repository, and it is not cached."""

    code = "NameUnknown"
    status = oci_status = 404
    oci_code = "NAME_UNKNOWN"


class ManifestUnknown(RegistryError):
    """Neither the cache nor the source registry has the manifest."""

    code = "ManifestUnknown"
    status = oci_status = 404
    oci_code = "MANIFEST_UNKNOWN"


class BlobUnknown(RegistryError):
    """Neither the cache nor the source registry has the blob in this repository."""

    code = "BlobUnknown"
    status = oci_status = 404
    oci_code = "BLOB_UNKNOWN"


class LoopDetected(RegistryError):
    """The request came through this engine before: the engine is its own source, directly or in a
    ring (RFC 5842, 7.2)."""

    code = "LoopDetected"
    status = oci_status = 508


class PushRefused(RegistryError):
    """Entrepot is a cache: nothing can be pushed to it."""

    code = "PushRefused"
    status = oci_status = 405
    oci_code = "UNSUPPORTED"


class RangeUnsatisfiable(RegistryError):
    """The requested byte range lies outside the blob, which has *size* bytes (RFC 9110, 15.5.17)."""

    code = "RangeUnsatisfiable"
    status = oci_status = 416
    oci_code = "RANGE_INVALID"

    def __init__(self, what: str, hint: str = "", *, size: int) -> None:
        super().__init__(what, hint)
        self.size = size


class EngineError(EntrepotError):
    """The engine can't start or go on, and says in one sentence what to do."""

    code = "EngineUnavailable"
    status = 503
    oci_status = 503
    oci_code = "UNKNOWN"


class EngineBusy(EngineError):
    """Too many requests are under way. The client may come back after *retry_after* seconds."""

    code = "EngineBusy"
    oci_code = "TOOMANYREQUESTS"

    def __init__(self, what: str, hint: str = "", *, retry_after: int) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after
