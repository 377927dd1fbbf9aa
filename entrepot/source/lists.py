"""Tags of a repository and referrers of a manifest, listed in pages."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import msgspec

from entrepot.core.media_types import EMPTY_INDEX, OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag, parse_tag
from entrepot.encoding import first_json_value
from entrepot.errors import ReferenceInvalid
from entrepot.formatting import counted
from entrepot.source.decoding import Undecodable, decode
from entrepot.source.errors import SourceAnswerInvalid, SourceNotFound
from entrepot.source.http import SourceResponse
from entrepot.source.manifests import DOCUMENT_THREAD_THRESHOLD, check_manifest, fetch_manifest
from entrepot.source.refusals import NOT_A_REGISTRY
from entrepot.source.registry_api import RegistryApi
from entrepot.source.warnings import NO_NOTE, SourceNote

TAGS_LIMIT = 16 * 1024 * 1024
"""The largest list of tags that is read, in bytes."""

MAX_TAGS_PER_REQUEST = 1000
"""The most tags that are requested at once: the reference implementation answers 400 to more."""

MAX_REFERRER_PAGES = 100
"""The most pages of a list of referrers that are followed."""

CURSOR_LENGTH = 2 * 1024
"""The longest text that a source may give to request the next page with, in characters."""

_PAGE_TOKEN = re.compile(r"\?([A-Za-z_]{1,30}=[A-Za-z0-9._~%+/=:-]{1,2000})")
"""A parameter of a source's link to the next page, as clients hand it back in ``last``."""

_log = logging.getLogger("entrepot.source")


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some of the tags of a repository; names that are no tags are left out.

    *next_last* is the ``last`` of the request for the next page; None: there is none.
    """

    tags: tuple[str, ...]
    next_last: str | None
    note: SourceNote = NO_NOTE


@dataclass(frozen=True, slots=True)
class ReferrersIndex:
    """The index of what refers to a manifest, all pages in one.

    *filtered*: the source lists the requested artifact type only. *tagged*: it is the index behind
    the fallback tag, byte for byte. *is_assumed*: the source has neither the referrers API nor that
    tag, and the list is empty because nothing says otherwise.
    """

    content: bytes
    filtered: bool
    tagged: bool = False
    is_assumed: bool = False
    note: SourceNote = NO_NOTE

    @property
    def media_type(self) -> str:
        """Always that of an index."""
        return OCI_INDEX

    @property
    def digest(self) -> Digest:
        """The digest of the content."""
        return Digest.of(self.content)


class _TagList(msgspec.Struct):
    tags: list[str] | None = None


class _ReferrersPage(msgspec.Struct):
    manifests: list[msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True)
class _ListedTags:
    """A list of tags as a source sent it.

    *names* are the entries that are tags, *dropped* is the number of others, *last_entry* the last
    one of either kind.
    """

    names: list[str]
    dropped: int
    last_entry: str | None

    @classmethod
    def read(cls, content: bytes, after: str | None) -> _ListedTags:
        """The tags of a response; raises `Undecodable`.

        A source without pages lists all tags each time: those up to *after* are left out.
        """
        entries = decode(content, _TagList).tags or []
        if after is not None and after in entries:
            entries = entries[entries.index(after) + 1 :]
        names = [entry for entry in entries if _is_tag(entry)]
        return cls(names, len(entries) - len(names), entries[-1] if entries else None)


async def list_tags(
    api: RegistryApi, repository: Repository, *, n: int | None, last: str | None
) -> TagPage:
    """The tags of a repository in the source's order: at most *n*, those after *last*."""
    about = f"{api.login_server}/{repository} (tags)"
    parameters = [f"n={min(n, MAX_TAGS_PER_REQUEST)}"] if n is not None else []
    if last is not None:
        token = _PAGE_TOKEN.fullmatch(last)
        parameters.append(token[1] if token is not None else f"last={quote(last, safe='')}")
    path = f"{repository}/tags/list" + ("?" + "&".join(parameters) if parameters else "")
    response, content = await api.read(
        path, repository, {"Accept": "application/json"}, about=about, limit=TAGS_LIMIT
    )
    api.refuse_page(response, about)
    try:
        listed = (
            _ListedTags.read(content, last)
            if len(content) < DOCUMENT_THREAD_THRESHOLD
            else await asyncio.to_thread(_ListedTags.read, content, last)
        )
    except Undecodable:
        raise SourceAnswerInvalid(
            f"{api.login_server} answers with something that is no list for {about}.",
            NOT_A_REGISTRY,
        ) from None
    if listed.dropped and not api.condition.has_odd_tags:
        api.condition.has_odd_tags = True
        _log.warning(
            "%s lists %s that are no tags, in %s at first: they are left out",
            api.login_server,
            counted(listed.dropped, "name"),
            repository,
        )
    note = SourceNote.of(response.headers)
    if n is not None and len(listed.names) > n:
        return TagPage(tuple(listed.names[:n]), listed.names[n - 1] if n else None, note)
    link, target = api.next_page(response)
    if link is None or listed.last_entry is None:
        return TagPage(tuple(listed.names), None, note)
    next_last = _cursor(target.params.get("last") if target is not None else None)
    if next_last is None and target is not None:
        next_last = _cursor(_page_token(target))
    next_last = next_last or _cursor(listed.last_entry)
    next_last = next_last or (listed.names[-1] if listed.names else None)
    return TagPage(tuple(listed.names), next_last, note)


async def list_referrers(
    api: RegistryApi,
    repository: Repository,
    digest: Digest,
    artifact_type: str | None,
    *,
    limit: int,
) -> ReferrersIndex:
    """What refers to a manifest, as one index of at most *limit* bytes.

    A single page stays as it came. Where the source has no referrers API, it is the index behind
    the fallback tag; where it has neither, an empty one.
    """
    about = f"{api.describe(repository, digest)} (referrers)"
    query = f"artifactType={quote(artifact_type, safe='')}" if artifact_type is not None else ""
    try:
        return await _list_referrer_pages(api, repository, digest, query, about, limit)
    except SourceNotFound:
        pass
    try:
        # Distribution specification 1.1, "Referrers Tag Schema".
        tag = Tag(f"{digest.algorithm}-{digest.hex}"[:128])
        fallback = await fetch_manifest(api, repository, tag, limit=limit)
        is_index = fallback.media_type == OCI_INDEX
        return ReferrersIndex(fallback.content, False, tagged=is_index, note=fallback.note)
    except SourceNotFound:
        return ReferrersIndex(EMPTY_INDEX, False, is_assumed=True)


async def _list_referrer_pages(
    api: RegistryApi, repository: Repository, digest: Digest, query: str, about: str, limit: int
) -> ReferrersIndex:
    pages: list[bytes] = []
    filtered = bool(query)
    note = NO_NOTE
    budget = limit
    queries: set[str] = set()
    next_query: str | None = query
    while next_query is not None:
        queries.add(next_query)
        path = f"{repository}/referrers/{digest}" + (f"?{next_query}" if next_query else "")
        try:
            response, content = await api.read(
                path,
                repository,
                {"Accept": OCI_INDEX},
                about=about,
                limit=budget,
                unsupported=not pages,
            )
        except SourceNotFound:
            if not pages:
                raise
            raise SourceAnswerInvalid(
                f"{api.login_server} has no further page of {about}, to which its link leads.",
                "Nothing was kept.",
            ) from None
        await check_manifest(api, response, content, None, about)
        pages.append(content)
        if note is NO_NOTE:
            note = SourceNote.of(response.headers)
        budget -= len(content)
        applied = response.headers.get("oci-filters-applied", "")[:256].lower().split(",")
        filtered = filtered and "artifacttype" in (name.strip() for name in applied)
        next_query = _next_query(api, response)
        if next_query is not None and (len(pages) >= MAX_REFERRER_PAGES or next_query in queries):
            raise SourceAnswerInvalid(
                f"{api.login_server} lists {about} in pages without an end.",
                f"At most {MAX_REFERRER_PAGES} pages are followed; a part would look like all of "
                "it.",
            )
    try:
        content = await asyncio.to_thread(_join_pages, pages) if len(pages) > 1 else pages[0]
        return ReferrersIndex(content, filtered, note=note)
    except Undecodable:
        raise SourceAnswerInvalid(
            f"{api.login_server} answers with something that is no index for {about}.",
            NOT_A_REGISTRY,
        ) from None


def _next_query(api: RegistryApi, response: SourceResponse) -> str | None:
    """The query of the next page.

    Only the query is taken from the link: host and path stay the registry's own.
    """
    link, target = api.next_page(response)
    if link is None:
        return None
    if target is None or not target.query or len(target.query) > CURSOR_LENGTH:
        raise SourceAnswerInvalid(
            f"{api.login_server} names a next page that can't be read.",
            "Nothing was kept: a part would look like all of it.",
        )
    return target.query.decode("ascii")


def _join_pages(pages: list[bytes]) -> bytes:
    """Join the pages: the entries of all, each as it came, and the rest of the first.

    Raises `Undecodable`.
    """
    pages = [first_json_value(page) for page in pages]
    entries = [
        bytes(entry) for page in pages for entry in decode(page, _ReferrersPage).manifests or ()
    ]
    document = decode(pages[0], dict[str, msgspec.Raw])
    document["manifests"] = msgspec.Raw(b"[" + b",".join(entries) + b"]")
    return msgspec.json.encode(document)


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except ReferenceInvalid:
        return False
    return True


def _page_token(target: httpx.URL) -> str | None:
    """The token for the next page in a link that names no ``last``, as a ``last`` for clients.

    It begins with a question mark, as no tag does. Quay gives such a token (``next_page``), and
    begins again where it is asked with the last tag.
    """
    for parameter in target.query.decode("ascii").split("&"):
        name = parameter.partition("=")[0]
        if name not in {"n", "last"} and _PAGE_TOKEN.fullmatch(f"?{parameter}"):
            return f"?{parameter}"
    return None


def _cursor(text: str | None) -> str | None:
    """A cursor that a source gives, if it can be handed to a client and back."""
    return text if text and len(text) <= CURSOR_LENGTH and text.isprintable() else None
