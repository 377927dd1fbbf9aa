"""Pulling from one source registry (OCI distribution specification 1.1).

`SourceClient` is what the rest of Entrepot uses: manifests, blobs, tags and referrers of one
registry, with one credential set or none. `entrepot.source.sources` makes it.

::

    client.py          what can be asked of a registry
    manifests.py, blobs.py, lists.py
                       the requests, and how their responses are checked
    registry_api.py    requests below /v2/, signed in; refusals.py: their errors
    auth.py            sign-in: tokens and basic credentials; challenges.py, realms.py
    http.py            redirects, retries, circuit breakers
    transport.py       small requests, with aiohttp
    blob_transport.py  requests for blobs, whose bodies a thread reads; http1.py: their heads
    connection_pool.py, dialing.py, connection.py
                       connections of blobs: kept, made, and their bytes
    sockets.py         which addresses may be connected to, and how
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.secrets import read_credential
from entrepot.source.auth import Authorizer, Login
from entrepot.source.blobs import BlobStream, MisreadBlobs, blob_size, open_blob
from entrepot.source.errors import SourceAnswerInvalid
from entrepot.source.lists import ReferrersIndex, TagPage, list_referrers, list_tags
from entrepot.source.manifests import FetchedManifest, ManifestHead, fetch_manifest, head_manifest
from entrepot.source.refusals import NOT_A_REGISTRY, SIGN_IN
from entrepot.source.registry_api import RegistryApi


class SourceClient:
    """One source registry, seen with one credential set or none.

    `Sources.client` makes it; it is light, and holds no state of its own. Every method raises a
    `SourceError` of the kind that fits.
    """

    def __init__(
        self,
        api: RegistryApi,
        login: Login,
        authorizer: Authorizer,
        misread: MisreadBlobs,
        *,
        manifest_limit: int,
    ) -> None:
        self._api = api
        self._login = login
        self._authorizer = authorizer
        self._misread = misread
        self._manifest_limit = manifest_limit

    def suspect(self) -> None:
        """Note that the source keeps a client waiting that could have had a cached copy."""
        self._api.suspect()

    @property
    def is_suspected(self) -> bool:
        """Whether the source kept a client waiting lately and has not answered any since.

        A client that can have a cached copy should not wait for it.
        """
        return self._api.is_suspected

    async def head_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestHead:
        """What the source states about a manifest. Docker Hub does not count it as a pull."""
        return await head_manifest(self._api, repository, reference)

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> FetchedManifest:
        """A manifest, its digest checked.

        It is checked against the requested digest, or for a tag against the one that the source
        states.
        """
        return await fetch_manifest(self._api, repository, reference, limit=self._manifest_limit)

    def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        offset: int = 0,
        validator: str | None = None,
        size: int | None = None,
    ) -> AbstractAsyncContextManager[BlobStream]:
        """A blob from *offset* on, as a stream.

        *validator* is that of an earlier stream of it, *size* what its manifest states, in bytes.
        How many blobs come from one source registry at once is for the caller to bound: see
        `entrepot.cache.fetch_queue`.
        """
        return open_blob(
            self._api,
            self._misread,
            repository,
            digest,
            offset=offset,
            validator=validator,
            size=size,
        )

    async def head_blob(self, repository: Repository, digest: Digest) -> int:
        """The size of a blob in bytes."""
        return await blob_size(self._api, repository, digest)

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        """The tags of a repository in the source's order: at most *n*, those after *last*."""
        return await list_tags(self._api, repository, n=n, last=last)

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ReferrersIndex:
        """What refers to a manifest, as one index; an empty one where the source has none."""
        return await list_referrers(
            self._api, repository, digest, artifact_type, limit=self._manifest_limit
        )

    async def verify_credentials(self) -> None:
        """Sign in again.

        Raises `SourceRefused` when the source does not accept the credentials, or what else keeps
        it from answering. Secrets that can't be read are an error even at a source that requires no
        sign-in and would not have asked for them.
        """
        if self._login.credential_set is not None:
            await read_credential(self._login.credential_set)
        self._authorizer.invalidate(self._login)
        async with self._api.request(
            "GET", "", Repository(""), {}, about=SIGN_IN, accepted={200, 404}
        ) as response:
            self._api.refuse_page(response, SIGN_IN)
            if response.status == 404:
                raise SourceAnswerInvalid(
                    f"{self._api.login_server} does not answer as a registry: it has no /v2/.",
                    NOT_A_REGISTRY,
                )
