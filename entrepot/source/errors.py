"""Errors between Entrepot and a source registry.

::

    SourceError
    ├── SourceUnreachable          no response: name, connection, TLS or time-out
    │   ├── SourceAvoided          it could not be reached a moment ago, and got no request
    │   │   └── TooManyFetches     the engine's own limit (entrepot.source.singleflight)
    │   └── FetchAbandoned         a fetch took too long (entrepot.source.singleflight)
    ├── SourceRefused              credentials or permissions: 401, 403
    │   ├── CredentialUnavailable  the secrets can't be read here
    │   └── SignInUnsafe           a sign-in that would give credentials away
    ├── SourceNotFound             it has no such manifest, blob or repository: 404
    ├── SourceRateLimited          its rate limit is reached: 429
    ├── SourceFailed               it answers with an error of its own: 5xx
    │   └── SourceBusy             and says when to come back: 503 or 504 with Retry-After
    ├── SourceLoop                 it is an engine that got its own request back: 508
    ├── SourceAnswerInvalid        it answers, but not as a registry should: a web page, a wrong
    │   │                          digest, a wrong range
    │   └── SourceMisread          bytes compressed on the way were read in the wrong way
    └── SourceBrokeOff             the connection ended before the response did

Each message names the source (``docker.io/library/nginx``) or what else is at fault
(`entrepot.causes`). None ever carries a secret, a token or the query of a URL.
"""

from __future__ import annotations

from entrepot.causes import CauseCode
from entrepot.errors import EntrepotError


class SourceError(EntrepotError):
    """A source registry refused, failed or could not be reached."""

    code = "SourceError"
    status = oci_status = 502
    oci_code = "UNKNOWN"


class SourceUnreachable(SourceError):
    """The source registry gave no response.

    Its name is unknown, it accepts no connection, its certificate is not trusted, or it is silent
    for too long.
    """

    code = "SourceUnreachable"
    status = oci_status = 503


class SourceAvoided(SourceUnreachable):
    """The source registry could not be reached a moment ago, so it got no request.

    *retry_after* is the seconds until it is next tried.
    """

    def __init__(
        self, what: str, hint: str = "", retry_after: float = 1.0, *, cause: CauseCode | None = None
    ) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after
        self.cause = cause


class SourceRefused(SourceError):
    """The source registry refuses a request: credentials or permissions."""

    code = "SourceRefused"
    status = oci_status = 403
    oci_code = "DENIED"


class CredentialUnavailable(SourceRefused):
    """The credentials that the source asks for can't be read on this machine.

    The source is not at fault: the code and the status are those of the secret.
    """

    code = "SecretUnavailable"
    status = oci_status = 503
    oci_code = "UNKNOWN"


class SignInUnsafe(SourceRefused):
    """The source registry asks for the sign-in where no credential may go.

    That says nothing about the requested content.
    """


class SourceNotFound(SourceError):
    """The source registry has no such manifest, blob or repository."""

    code = "SourceNotFound"
    status = oci_status = 404
    oci_code = "MANIFEST_UNKNOWN"


class SourceRateLimited(SourceError):
    """The rate limit of the source registry is reached.

    *retry_after* is the seconds that it asks to wait, if it says so.
    """

    code = "SourceRateLimited"
    status = oci_status = 429
    oci_code = "TOOMANYREQUESTS"

    def __init__(
        self,
        what: str,
        hint: str = "",
        *,
        retry_after: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(what, hint, field=field)
        self.retry_after = retry_after


class SourceFailed(SourceError):
    """The source registry answers with an error of its own."""

    code = "SourceFailed"


class SourceBusy(SourceFailed):
    """The source registry is overloaded or in maintenance.

    It asks for the next request after *retry_after* seconds.
    """

    code = "SourceBusy"
    status = oci_status = 503

    def __init__(self, what: str, hint: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after


class SourceLoop(SourceError):
    """The source registry is an engine that received its own request again.

    See `entrepot.source.loop_detection`.
    """

    code = "SourceLoop"
    status = oci_status = 508


class SourceAnswerInvalid(SourceError):
    """The source registry answers, but not as the OCI distribution specification says.

    Nothing of such a response is kept.
    """

    code = "SourceAnswerInvalid"


class SourceMisread(SourceAnswerInvalid):
    """The source labels a blob as compressed, and the attempted reading is wrong.

    The next attempt reads it the other way.
    """


class SourceBrokeOff(SourceError):
    """The connection ended before the response did.

    The received part may be kept, and the rest requested.
    """

    code = "SourceBrokeOff"
