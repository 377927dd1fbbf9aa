"""Names of repositories, tags and digests, and image references.

The grammar and its limits are those of the OCI distribution specification 1.1 ("Pulling manifests")
and of the OCI image specification ("Digests").
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

import msgspec

from entrepot.errors import DigestInvalid, ReferenceInvalid, RepositoryNameInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

Repository = NewType("Repository", str)
"""A valid repository path: ``library/nginx``."""

Tag = NewType("Tag", str)
"""A valid tag: ``1.27``."""

REPOSITORY_LENGTH = 255
"""The longest repository path, in characters.

The specification allows 255 for host and path together; registries count the path.
"""

_SEGMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")
_OTHER_DIGEST = re.compile(r"[a-z0-9]++(?:[+._-][a-z0-9]++)*+:[a-zA-Z0-9=_-]++")


class Digest(msgspec.Struct, frozen=True, order=True, gc=False):
    """The digest of some bytes: its algorithm and its value.

    The algorithm is ``sha256`` or ``sha512``, the value is in lower-case hexadecimal. A process may
    have a hundred thousand of them, so the garbage collector tracks none, nor a tuple of them
    (``gc=False``).
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``; raises `DigestInvalid`."""
        algorithm, colon, value = text.partition(":")
        if not colon or len(value) != _HEX_LENGTH.get(algorithm) or not _HEX.fullmatch(value):
            raise DigestInvalid(
                f"{quoted(text)} is not a digest.",
                "A digest is sha256: followed by 64, or sha512: followed by 128 of the characters "
                "0-9 and a-f.",
                field="digest",
            )
        return cls(sys.intern(algorithm), value)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of *content*."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> _Hash:
        """A new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, content: bytes) -> bool:
        """Whether this is the digest of *content*."""
        return Digest.of(content, self.algorithm) == self

    @property
    def short(self) -> str:
        """The first twelve characters of the value, as docker and podman show it."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def is_of_other_algorithm(text: str) -> bool:
    """Whether *text* is a digest of an unknown algorithm.

    Nothing can be verified by it (OCI image specification, "Digests").
    """
    return (
        len(text) <= 512
        and text.partition(":")[0] not in _HEX_LENGTH
        and _OTHER_DIGEST.fullmatch(text) is not None
    )


def parse_repository(text: str, *, field: str = "repository") -> Repository:
    """Check a repository path without host, tag, digest or wildcard.

    Raises `RepositoryNameInvalid`.
    """
    if len(text) <= REPOSITORY_LENGTH and _REPOSITORY.fullmatch(text):
        return Repository(text)
    raise RepositoryNameInvalid(
        f"Repository name {quoted(text)} is invalid.",
        f"A repository name has at most {REPOSITORY_LENGTH} characters: lower-case letters and "
        "digits with . _ __ or dashes between them, in parts set apart by /.",
        field=field,
    )


def parse_tag(text: str) -> Tag:
    """Check a tag; raises `ReferenceInvalid`."""
    if _TAG.fullmatch(text):
        return Tag(text)
    raise ReferenceInvalid(
        f"{quoted(text)} is not a tag.",
        "A tag has at most 128 letters, digits, dots, underscores and dashes, and does not begin "
        "with a dot or dash.",
        field="tag",
    )


def parse_reference(text: str) -> Tag | Digest:
    """Read the last part of a manifest's address: a tag or a digest.

    Raises `ReferenceInvalid` or `DigestInvalid`.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image in this registry: ``library/nginx:1.27`` or ``library/nginx@sha256:…``.

    With both a tag and a digest, the digest counts.
    """

    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read an image reference without a host.

        Without tag and digest the tag is ``latest``, as for docker. Raises a `Refusal`.
        """
        name, at, digest_text = text.partition("@")
        slash = name.rfind("/")
        colon = name.find(":", slash + 1)
        tag = parse_tag(name[colon + 1 :]) if colon != -1 else None
        repository = parse_repository(name[:colon] if colon != -1 else name)
        digest = Digest.parse(digest_text) if at else None
        if tag is None and digest is None:
            tag = Tag("latest")
        return cls(repository, tag, digest)

    @property
    def manifest(self) -> Tag | Digest:
        """What to request: the digest if there is one, else the tag."""
        if self.digest is not None:
            return self.digest
        assert self.tag is not None  # parse() sets one of the two
        return self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}@{self.digest}" if self.digest else f"{self.repository}{tag}"


def quoted(text: str) -> str:
    """*text* in quotation marks for a message, shortened to 80 characters.

    Control characters are escaped.
    """
    return repr(text if len(text) <= 80 else text[:77] + "...")
