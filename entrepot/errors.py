"""The errors that a person, a script or a container client can meet.

::

    EntrepotError
    ├── Refusal                      the engine refuses a request by its own rules
    │   ├── NameInvalid              a rule or credential set name
    │   ├── RepositoryNameInvalid    a repository path, source or target
    │   ├── ReferenceInvalid         a tag or an image reference
    │   │   └── DigestInvalid        a digest
    │   ├── RequestInvalid           a body, a header or a parameter that can't be read
    │   │   └── AcceptInvalid        an Accept header (httpd/accept.py)
    │   ├── Locked                   a repository, tag or manifest that must not be deleted
    │   ├── EngineReadOnly           a change, where engine or client are read-only
    │   ├── TokenInvalid             a request to the management API on TCP without its token
    │   ├── core/rules.py            WildcardOnOneSide, CacheRuleNameTaken, CacheRuleLimitReached,
    │   │                            CacheRuleTargetOverlap, CacheRuleImmutable, RulesInvalid,
    │   │                            TargetRepositoryPresent, TargetPrefixPresent,
    │   │                            CredentialSetRequired (DockerCredentialSetRequired),
    │   │                            CredentialSetUnknown, CredentialSetLoginServerMismatch
    │   ├── core/patterns.py         SourceLoginServerMissing, WildcardInvalid
    │   ├── core/registries.py       LoginServerInvalid, LoginServerNotSupported,
    │   │                            CredentialsNotTaken, RegistryDeclarationInvalid
    │   ├── core/credentials.py      CredentialSetNameTaken, CredentialSetInUse,
    │   │                            CredentialSetsInvalid
    │   ├── core/secret_identifiers.py, core/permitted_identifiers.py
    │   │                            SecretIdentifierInvalid, SecretKindNotAllowed
    │   ├── core/freshness.py, core/platforms.py
    │   │                            FreshnessInvalid, PlatformInvalid
    │   ├── core/readers.py, core/tokens.py
    │   │                            ReaderInvalid, PersonalTokenInvalid, TokenNameTaken,
    │   │                            TokenLimitReached
    │   ├── core/rule_import.py      ImportInvalid, ImportRefused
    │   ├── core/mirror_configuration
    │   │                            MirrorConfigurationImpossible, ClientFileConflict
    │   ├── config/document_files.py DocumentInvalid, ConfigurationReadOnly
    │   ├── engine/exports.py        ImageTooLarge
    │   ├── engine/imports.py        ImportWithoutRule, ImportSourceMismatch, ImportTooLarge,
    │   │                            ImportedContentInvalid, ImportBrokenOff,
    │   │                            ImportOffsetMismatch, ImportIncomplete
    │   └── engine/verification.py   VerificationUnderWay
    ├── NotFound                     a rule, set, repository, tag or pull that does not exist:
    │                                CacheRuleNotFound, CredentialSetNotFound, TokenNotFound
    ├── RegistryError                an error answer to a container client: RepositoryUnknown,
    │                                ManifestUnknown, ReferrersUnknown, BlobUnknown,
    │                                LoopDetected, PushRefused, RangeUnsatisfiable,
    │                                SignInRequired, TokenMethodRefused (server/sign_in.py)
    ├── SourceError                  a source registry refused, failed or could not be reached
    │                                (source/errors.py has its tree)
    ├── SecretUnavailable            a secret can't be read (secrets/secret.py): SecretForbidden,
    │                                VaultIdentityUnknown
    ├── EngineError                  the engine can't start or go on: port, disk, lock, permissions
    │   ├── EngineBusy               too many requests are under way; TooManyGuesses
    │   ├── HtpasswdInvalid          the password file of readers (config/htpasswd.py)
    │   ├── SettingsInvalid          settings.toml can't be used (config/settings.py)
    │   ├── CatalogFailed            the catalog can't be read or written (store/connections.py)
    │   ├── ImportStorageFailed      the disk does not take an import (engine/imports.py)
    │   └── FileCutShort             a file ended before its blob (httpd/sendfile.py)
    ├── ArchiveInvalid, ArchiveNotWritten
    │                                an archive of images (archive/layout.py, archive/writing.py)
    ├── BlobBrokenOff, ExportTargetInvalid, ImageUnsuitable, InventoryInvalid, NameNotMapped
    │                                an export or import (cli/export_run.py, cli/import_run.py)
    └── FillFailed, FillCancelled, FillUnwanted, StorageFailed, TooManyFills, TooManyPulls (cache),
        ProxyUnusable (source/proxies.py), ConnectionInvalid, ConnectionFailed,
        ClientFileUnusable (cli)

An error has *what* happened, a *hint* that says what to do, the *code* that ACR or Entrepot gave
it, and the *field* that caused it. So the dashboard shows it beside that field, the management API
answers in ACR's shape, and a container client gets an OCI error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from entrepot.causes import Cause, CauseCode


class EntrepotError(Exception):
    """An error that is shown to a person, in plain words.

    ``code`` is ACR's code where it has one, else our own in the same style; ``status`` the HTTP
    status of the management API; ``oci_code`` and ``oci_status`` those of ``/v2/`` (OCI
    distribution 1.1, "Error Codes").
    """

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    oci_code: ClassVar[str] = "UNKNOWN"
    oci_status: ClassVar[int] = 500
    source_message: str = ""
    """What a source registry said about its failure.

    Engines in a row hand on the first sentence, and do not quote each other's quotes.
    """

    def __init__(self, what: str, hint: str = "", *, field: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.field = field
        self.cause: CauseCode | None = None
        """The fault behind it, where one is recognised."""

    @classmethod
    def of_cause(cls, cause: Cause) -> Self:
        """The error for a fault, with its sentence and its hint."""
        error = cls(cause.what, cause.hint)
        error.cause = cause.code
        return error

    @property
    def message(self) -> str:
        """*what* and *hint* as one text."""
        return f"{self.what} {self.hint}" if self.hint else self.what

    def __str__(self) -> str:
        return self.message


class Refusal(EntrepotError):
    """The engine refuses a request by its own rules; nothing was changed."""

    code = "BadRequest"
    status = 400
    oci_code = "DENIED"
    oci_status = 400


class NameInvalid(Refusal):
    """The name of a cache rule or credential set is not 5 to 50 of ``[A-Za-z0-9-]``.

    Azure REST specification, CacheRule.tsp.
    """

    code = "InvalidResourceName"


class RepositoryNameInvalid(Refusal):
    """A repository path breaks the grammar of the OCI distribution specification.

    Or it has a tag or digest where it must not.
    """

    code = "GenericRepositoryNameInvalid"
    oci_code = "NAME_INVALID"


class ReferenceInvalid(Refusal):
    """A tag, digest or image reference breaks the grammar of the OCI specifications."""

    code = "ReferenceInvalid"
    oci_code = "MANIFEST_INVALID"


class DigestInvalid(ReferenceInvalid):
    """A digest is not ``sha256:`` or ``sha512:`` and as many lower-case hex digits."""

    code = "DigestInvalid"
    oci_code = "DIGEST_INVALID"


class RequestInvalid(Refusal):
    """A body, header or parameter of a request can't be read."""

    code = "InvalidRequest"
    oci_code = "UNSUPPORTED"


class Locked(Refusal):
    """A locked repository, tag or manifest can't be deleted.

    It has ``deleteEnabled: false``. Code and status are those of ACR's data API.
    """

    code = "REGISTRY_DISALLOWED_OPERATION"
    status = 405


class EngineReadOnly(Refusal):
    """The engine or the client is read-only, and the request would change something."""

    code = "EngineReadOnly"
    status = 403


class TokenInvalid(Refusal):
    """A request to the API on TCP has no token, or a wrong one (RFC 9110, 15.5.2)."""

    code = "TokenInvalid"
    status = 401
    oci_code = "UNAUTHORIZED"


class NotFound(EntrepotError):
    """There is no such rule, credential set, repository, tag or pull."""

    code = "ResourceNotFound"
    status = 404
    oci_code = "NAME_UNKNOWN"
    oci_status = 404


class RegistryError(EntrepotError):
    """An error answer to a container client."""


class RepositoryUnknown(RegistryError):
    """No cache rule answers for the repository, and it is not cached."""

    code = "NameUnknown"
    status = oci_status = 404
    oci_code = "NAME_UNKNOWN"


class SignInRequired(RegistryError):
    """The repository does not exist for a reader who did not sign in (RFC 9110, 15.5.2)."""

    code = "SignInRequired"
    status = oci_status = 401
    oci_code = "UNAUTHORIZED"


class ManifestUnknown(RegistryError):
    """Neither the cache nor the source registry has the manifest."""

    code = "ManifestUnknown"
    status = oci_status = 404
    oci_code = "MANIFEST_UNKNOWN"


class ReferrersUnknown(RegistryError):
    """Whether anything refers to a manifest can't be told: no source is asked, nothing is cached.

    Not 404: a client would take it for a registry without the referrers API, ask for the fallback
    tag, and take an absent tag for an image without signatures (F73).
    """

    code = "ReferrersUnknown"
    status = oci_status = 503


class BlobUnknown(RegistryError):
    """Neither the cache nor the source registry has the blob in this repository."""

    code = "BlobUnknown"
    status = oci_status = 404
    oci_code = "BLOB_UNKNOWN"


class LoopDetected(RegistryError):
    """The request came through this engine before (RFC 5842, 7.2).

    The engine is its own source, directly or in a ring.
    """

    code = "LoopDetected"
    status = oci_status = 508


class PushRefused(RegistryError):
    """A push was refused: Entrepot is a cache."""

    code = "PushRefused"
    status = oci_status = 405
    oci_code = "UNSUPPORTED"
    allow: ClassVar[str] = "GET, HEAD"
    """The methods that are answered, for the header ``Allow``."""


class RangeUnsatisfiable(RegistryError):
    """The requested range is outside the blob of *size* bytes (RFC 9110, 15.5.17)."""

    code = "RangeUnsatisfiable"
    status = oci_status = 416
    oci_code = "RANGE_INVALID"

    def __init__(self, what: str, hint: str = "", *, size: int) -> None:
        super().__init__(what, hint)
        self.size = size


class EngineError(EntrepotError):
    """The engine can't start or go on."""

    code = "EngineUnavailable"
    status = 503
    oci_status = 503
    oci_code = "UNKNOWN"


class EngineBusy(EngineError):
    """Too many requests are under way.

    The client may try again after *retry_after* seconds.
    """

    code = "EngineBusy"
    oci_code = "TOOMANYREQUESTS"

    def __init__(self, what: str, hint: str = "", *, retry_after: int) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after
