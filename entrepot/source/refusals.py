"""Responses that are not what was asked for, as errors in plain words with advice."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from entrepot.formatting import duration, printable
from entrepot.source.auth import CREDENTIALS_CURE, Login
from entrepot.source.decoding import Undecodable, decode
from entrepot.source.diagnosis import WEB_PAGE_CURE
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBusy,
    SourceError,
    SourceFailed,
    SourceLoop,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
)
from entrepot.source.http import SourceResponse
from entrepot.source.rate_limit import read_retry_after
from entrepot.source.realms import rule_elsewhere

SOURCE_MESSAGE_LENGTH = 200
"""Characters of a source's own error message that are quoted, at the most."""

ERROR_BODY_LIMIT = 64 * 1024
"""The largest error body that is read, in bytes."""

SIGN_IN = "the sign-in"
"""What a sign-in without a repository is called in messages."""

ASK_PUBLISHER = (
    "Nothing of it was kept. Ask the publisher of the image, or the registry's operator."
)
NOT_A_REGISTRY = WEB_PAGE_CURE


class _ErrorDetail(msgspec.Struct, rename="camel"):
    source_message: str = ""
    """Only from an engine: the message of its own source."""


class _ErrorEntry(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: msgspec.Raw = msgspec.Raw(b"")

    @property
    def sentence(self) -> str:
        """What went wrong, in the words of the registry that met it first."""
        try:
            quoted = decode(bytes(self.detail), _ErrorDetail).source_message if self.detail else ""
        except Undecodable:
            quoted = ""
        code = "" if self.code == "UNKNOWN" and self.message else self.code
        return quoted or f"{code} {self.message}"


class _OciErrors(msgspec.Struct):
    errors: list[_ErrorEntry] = []


async def read_source_message(response: SourceResponse) -> str:
    """The source's own message about an error: the first of its OCI errors.

    At most `SOURCE_MESSAGE_LENGTH` characters; empty where the body has no such error.
    """
    if (
        response.media_type not in {"application/json", "application/vnd.oci.error.v1+json"}
        or response.redirected
    ):
        return ""
    try:
        first = decode(await response.read(ERROR_BODY_LIMIT), _OciErrors).errors[0]
    except (Undecodable, IndexError, SourceError):
        return ""
    text = printable(first.sentence).rstrip(".")
    if len(text) <= SOURCE_MESSAGE_LENGTH:
        return text
    start = text[: SOURCE_MESSAGE_LENGTH - 1]
    words = start.rpartition(" ")[0].rstrip(".,;:(")
    # A text that is longer than any word may be cut in its middle.
    return f"{words if len(words) > SOURCE_MESSAGE_LENGTH / 2 else start}…"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Makes the errors of one source registry, seen with one login."""

    login: Login

    @property
    def _server(self) -> str:
        return self.login.registry.login_server

    async def read(self, response: SourceResponse, about: str, now: float) -> SourceError:
        """The error that a response is; *now* is in seconds since the epoch."""
        message = await read_source_message(response)
        error = self._error_of(response, about, f" ({message})" if message else "", now)
        error.source_message = message
        return error

    def _error_of(
        self, response: SourceResponse, about: str, quoted: str, now: float
    ) -> SourceError:
        status = response.status
        if status == 404:
            return SourceNotFound(
                f"{self._server} has no {about.removeprefix(self._server + '/')}{quoted}."
            )
        retry_after = read_retry_after(response.headers, now)
        if status == 429:
            return self.rate_limited(about, retry_after, quoted)
        if status in {401, 403}:
            return self._denied(response, about, quoted)
        if status == 508:
            reason = quoted or " (an engine on the way is its own source)"
            return SourceLoop(
                f"{self._server} leads {about} in a circle{reason}.",
                "Let the endpoint of the source, or the cache rule, lead to the registry itself.",
            )
        if status in {503, 504} and retry_after is not None:
            return SourceBusy(
                f"{self._server} fails with status {status} for {about}{quoted}.",
                f"It asks to try again in {duration(retry_after)}.",
                retry_after=retry_after,
            )
        if status >= 500:
            return SourceFailed(
                f"{self._server} fails with status {status} for {about}{quoted}.",
                "The fault is at the source registry; try again later.",
            )
        return SourceAnswerInvalid(
            f"{self._server} answers {about} with status {status}, which was not expected{quoted}.",
            NOT_A_REGISTRY,
        )

    def _denied(
        self, response: SourceResponse, about: str, quoted: str
    ) -> SourceRefused | SourceFailed:
        status = response.status
        if response.refuses_registry_client:
            return self.refused_elsewhere(response.origin, about)
        if response.redirected:
            return SourceFailed(
                f"{response.host}, to which {self._server} redirects {about}, refuses it with "
                f"status {status}.",
                "The fault is there; try again.",
            )
        if about == SIGN_IN:
            return self._sign_in_refused(status, quoted)
        anonymous = self.login.credential_set is None
        hint = (
            "It does not exist there, or needs a credential set that may read it."
            if anonymous
            else "Check that its user may read the repository, and that the repository exists."
        )
        return SourceRefused(f"{self._server} refuses {about} {self.login.name}{quoted}.", hint)

    def _sign_in_refused(self, status: int, quoted: str) -> SourceRefused:
        """A sign-in names no repository, so it says nothing about the permissions to one."""
        reason = quoted or f" (status {status})"
        if self.login.credential_set is None:
            return SourceRefused(
                f"{self._server} requires credentials{reason}.",
                "Give the cache rule a credential set.",
            )
        return SourceRefused(
            f"{self._server} refuses the credentials of credential set "
            f"{self.login.credential_set.name}{reason}.",
            CREDENTIALS_CURE,
        )

    def refused_elsewhere(self, origin: str, about: str) -> SourceRefused:
        """Another registry, to which this one redirects, refuses a request."""
        # With its port, where it has one: that is the login server that a rule can have.
        host = origin.partition("://")[2]
        return SourceRefused(
            f"{self._server} redirects {about} to {printable(host, 253)}, which requires "
            "credentials of its own, or has no such image.",
            rule_elsewhere(host),
        )

    def rate_limited(
        self, about: str, retry_after: float | None, quoted: str = ""
    ) -> SourceRateLimited:
        """The rate limit of the source is reached; *retry_after* is in seconds."""
        when = f"again in {retry_after:.0f} s" if retry_after is not None else "again later"
        more = (
            " A credential set may have a higher rate limit."
            if self.login.credential_set is None
            else ""
        )
        return SourceRateLimited(
            f"Too many requests to {self._server}: its rate limit is reached, "
            f"and {about} was asked for{quoted}.",
            f"Try {when}.{more}",
            retry_after=retry_after,
        )
