"""Requests to the ``/v2/`` API of a source registry, signed in if it asks for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import httpx

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.states import SignIn
from entrepot.errors import DigestInvalid
from entrepot.source.addresses import parse_address
from entrepot.source.auth import Authorization, Authorizer, Login
from entrepot.source.challenges import asks_for_sign_in
from entrepot.source.decoding import next_link
from entrepot.source.diagnosis import web_page_cause
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceError,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.source.http import ATTEMPTS, SourceHttp, SourceResponse, origin_of
from entrepot.source.rate_limit import RateLimits
from entrepot.source.refusals import ASK_PUBLISHER, Refusals

MAX_REDIRECTING_REGISTRIES = 2
"""Further registries to which one registry may redirect a request, each with its own sign-in."""


class SourceCondition:
    """How the last requests to one login server ended; shared by all its clients."""

    def __init__(self) -> None:
        self.reachable: bool | None = None
        self.problem: SourceError | None = None
        """The last failure, without its traceback."""
        self.has_odd_tags = False
        """Whether the log says already that it lists names that are no tags."""

    def record(self, error: SourceError | None) -> None:
        """Remember how the last request failed; None: it did not."""
        if error is not None:
            copy = SourceError(error.what, error.hint)
            copy.cause = error.cause
            error = copy
        self.problem = error


class RegistryApi:
    """The ``/v2/`` API of one source registry, seen with one login.

    *wall_clock* is in seconds since the epoch. Requests raise a `SourceError` of the kind that
    fits.
    """

    def __init__(
        self,
        login: Login,
        http: SourceHttp,
        authorizer: Authorizer,
        rate_limits: RateLimits,
        condition: SourceCondition,
        wall_clock: Callable[[], float],
    ) -> None:
        self.login_server = login.registry.login_server
        self.condition = condition
        self.refusals = Refusals(login)
        self._login = login
        self._http = http
        self._authorizer = authorizer
        self._rate_limits = rate_limits
        self._wall_clock = wall_clock

    @property
    def endpoint(self) -> httpx.URL:
        """The address of the registry, without ``/v2/``."""
        return httpx.URL(self._login.registry.endpoint)

    def describe(self, repository: Repository, reference: Tag | Digest) -> str:
        """A manifest or blob in messages: ``docker.io/library/nginx:1.27``."""
        separator = "@" if isinstance(reference, Digest) else ":"
        return f"{self.login_server}/{repository}{separator}{reference}"

    async def read(
        self,
        path: str,
        repository: Repository,
        headers: Mapping[str, str],
        *,
        about: str,
        limit: int,
        unsupported: bool = False,
    ) -> tuple[SourceResponse, bytes]:
        """GET a document of at most *limit* bytes, in several attempts when it breaks off.

        *unsupported*: a source that does not support such a request has no such document.
        """
        attempt = 1
        while True:
            try:
                async with self.request(
                    "GET",
                    path,
                    repository,
                    headers,
                    about=about,
                    accepted={200},
                    unsupported=unsupported,
                ) as response:
                    return response, await response.read(limit)
            except SourceBrokeOff as error:
                if attempt >= ATTEMPTS:
                    self.condition.record(error)
                    raise
            attempt += 1

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        repository: Repository,
        headers: Mapping[str, str],
        *,
        about: str,
        accepted: set[int],
        unsupported: bool = False,
        for_blob: bool = False,
    ) -> AsyncGenerator[SourceResponse, None]:
        """Make a request, signing in where it is asked for.

        *path* is below ``/v2/``. *for_blob*: the body is that of a blob. Every response with
        another status than those *accepted* becomes an error.
        """
        kind = "blobs" if "/blobs/" in path else "manifests"
        pause_key = (self.login_server, self._login.identity, kind)
        pause = self._rate_limits.remaining_pause(pause_key)
        if pause is not None:
            raise self.refusals.rate_limited(about, pause)
        url = httpx.URL(f"{self._login.registry.endpoint}/v2/{path}")
        if self._login.registry.mirror:
            # OCI distribution specification, "Registry Proxying". A link of the mirror to its next
            # page has it already.
            url = url.copy_set_param("ns", self.login_server)
        try:
            response = await self._request_signed_in(
                method, url, headers, repository, about, for_blob=for_blob
            )
        except SourceError as error:
            self.condition.record(error)
            if isinstance(error, SourceUnreachable):
                self.condition.reachable = False
            if isinstance(error, SourceRateLimited):
                self._rate_limits.record_exceeded(self.login_server, pause_key, error.retry_after)
            raise
        async with response:
            self.condition.reachable = True
            if not response.redirected:
                self._rate_limits.record(self.login_server, response.headers)
            if response.status in accepted:
                self.condition.problem = None
                yield response
                return
            if unsupported and response.status in {400, 405, 406, 501}:
                raise SourceNotFound(f"{self.login_server} does not know {about}.")
            refusal = await self.refusal(response, about)
            if isinstance(refusal, SourceRateLimited):
                self._rate_limits.record_exceeded(self.login_server, pause_key, refusal.retry_after)
            self.condition.record(None if isinstance(refusal, SourceNotFound) else refusal)
            raise refusal

    async def refusal(self, response: SourceResponse, about: str) -> SourceError:
        """The error that a response with an unexpected status is."""
        return await self.refusals.read(response, about, self._wall_clock())

    async def _request_signed_in(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        repository: Repository,
        about: str,
        *,
        for_blob: bool,
    ) -> SourceResponse:
        """Make a request, signed in as its registry asks for.

        That may be another registry, to which the first one redirects (F80). No registry is asked
        more than three times: without a token, with one that has just been revoked, and with a new
        one.
        """
        authorizer = self._authorizer
        authorization = await authorizer.authorization(self._login, repository, self._http)
        sent_elsewhere: dict[str, Authorization] = {}
        challenged: dict[str, int] = {}

        async def authorize(target: httpx.URL) -> str | None:
            origin = origin_of(target)
            try:
                token = await authorizer.authorization(
                    self._redirected_login(origin), repository, self._http
                )
            except SourceRefused:
                # The registry there says so itself when it is asked without a token.
                return None
            if token is not None:
                sent_elsewhere[origin] = token
            return token.value if token is not None else None

        while True:
            sent_elsewhere.clear()
            response = await self._http.request(
                method,
                url,
                _with(headers, authorization),
                about=about,
                authorize=authorize,
                for_blob=for_blob,
            )
            challenges = response.headers.get_list("www-authenticate")
            origin = response.origin
            if response.redirected:
                response.refuses_registry_client = origin in sent_elsewhere or (
                    response.status == 401
                    and asks_for_sign_in(challenges, basic=response.is_of_registry)
                )
            if response.status != 401 or not challenges or challenged.get(origin, 0) == 2:
                return response
            if response.redirected and (
                not response.refuses_registry_client or len(challenged) > MAX_REDIRECTING_REGISTRIES
            ):
                return response
            await response.close()
            renewed = challenged.get(origin, 0) > 0
            challenged[origin] = challenged.get(origin, 0) + 1
            if not response.redirected:
                authorization = await authorizer.answer_challenges(
                    challenges,
                    self._login,
                    repository,
                    self._http,
                    used=authorization,
                    renewed=renewed,
                )
                continue
            try:
                await authorizer.answer_challenges(
                    challenges,
                    self._redirected_login(origin),
                    repository,
                    self._http,
                    used=sent_elsewhere.get(origin),
                    renewed=renewed,
                )
            except SignInUnsafe:
                raise
            except SourceRefused:
                raise self.refusals.refused_elsewhere(response.origin, about) from None

    def _redirected_login(self, origin: str) -> Login:
        """An anonymous login at another registry, to which the redirects of this one lead."""
        host = origin.partition("://")[2]
        return Login(
            SourceRegistry(host, host, SignIn.OPTIONAL, origin),
            None,
            redirected_by=self.login_server,
        )

    def suspect(self) -> None:
        """Note that the registry keeps a client waiting that could have had a cached copy."""
        self._http.suspect(self.endpoint)

    @property
    def is_suspected(self) -> bool:
        """Whether the registry kept a client waiting lately and has not answered since."""
        return self._http.is_suspected(self.endpoint)

    def refuse_page(
        self, response: SourceResponse, about: str, *, unless: Digest | None = None
    ) -> None:
        """Raise `SourceAnswerInvalid` where a response is a web page, for people.

        A captive portal or a web gallery sends such ones. A blob may be a page if the source states
        its digest, *unless*.
        """
        if response.is_page and (unless is None or stated_digest(response.headers) != unless):
            page = SourceAnswerInvalid.of_cause(web_page_cause(self.login_server, about))
            self.condition.record(page)
            raise page

    def refuse_media_type(self, response: SourceResponse, about: str) -> None:
        """Raise `SourceAnswerInvalid` where a Content-Type is no media type.

        It would become a header of the engine's own responses.
        """
        if not response.media_type_is_valid:
            raise SourceAnswerInvalid(
                f"{self.login_server} sends {about} with a Content-Type that is none.",
                ASK_PUBLISHER,
            )

    def next_page(self, response: SourceResponse) -> tuple[str | None, httpx.URL | None]:
        """The link to the next page as it was written, and the address that it names.

        Each is None where there is none; the second one too where no request could be sent to it.
        """
        link = next_link(response.headers.get("link", ""))
        return link, None if link is None else parse_address(link, self.endpoint)


def stated_digest(headers: Mapping[str, str]) -> Digest | None:
    """The digest in Docker-Content-Digest; None without a valid one."""
    value = headers.get("docker-content-digest")
    if value is None:
        return None
    try:
        return Digest.parse(value.strip())
    except DigestInvalid:
        return None


def _with(headers: Mapping[str, str], authorization: Authorization | None) -> dict[str, str]:
    return (
        {**headers, "Authorization": authorization.value}
        if authorization is not None
        else dict(headers)
    )
