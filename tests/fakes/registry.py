"""The fake registry: OCI distribution 1.1, pull side, with faults."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from entrepot.core.reference import Digest
from entrepot.demo.images import OCI, MediaTypes
from tests.fakes.faults import Answer, Fault, Gate
from tests.fakes.images import Content, FakeImage, Layers, build_image
from tests.fakes.sign_in import SignIn
from tests.fakes.transport import Request, Server

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class FakeRegistry(Server):
    """A source registry for tests. Use it as ``async with``.

    It listens on a free port of 127.0.0.1. `files` are served by their path without any sign-in:
    blobs behind a redirect, or anything else.
    """

    def __init__(
        self,
        sign_in: SignIn | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(tls, address=address, port=port)
        self.sign_in = sign_in
        self.files: dict[str, bytes] = {}
        self.has_referrers = True
        """Whether it supports the referrers API."""
        self.tags_page = 1000
        """The most tags that it lists at once."""
        self._manifests: dict[str, dict[str, Content]] = {}
        self._tags: dict[str, dict[str, Content]] = {}
        self._blobs: dict[str, dict[str, Content]] = {}
        self._referrers: dict[tuple[str, str], list[dict[str, object]]] = {}
        self._faults: list[tuple[str, str | None, Fault]] = []
        self._left: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Content

    def add_image(
        self,
        repository: str,
        tag: str,
        layers: Layers | Mapping[str, Layers] = (20_000, 10_000),
        platforms: Sequence[str] = ("linux/amd64", "linux/arm64"),
        *,
        index: bool = True,
        media_types: MediaTypes = OCI,
    ) -> FakeImage:
        """Add an image under a tag, which moves if it exists.

        Without *index* the tag points to the manifest of the only platform.
        """
        image = build_image(
            repository, tag, layers, platforms, index=index, media_types=media_types
        )
        for platform in image.platforms.values():
            self.add_manifest(repository, platform.manifest)
            for blob in platform.blobs:
                self.add_blob(repository, blob)
        self.add_manifest(repository, image.manifest, tag)
        return image

    def add_manifest(self, repository: str, manifest: Content, *tags: str) -> Content:
        self._manifests.setdefault(repository, {})[str(manifest.digest)] = manifest
        for tag in tags:
            self._tags.setdefault(repository, {})[tag] = manifest
        return manifest

    def add_blob(self, repository: str, blob: Content | bytes) -> Content:
        content = (
            blob if isinstance(blob, Content) else Content.of("application/octet-stream", blob)
        )
        self._blobs.setdefault(repository, {})[str(content.digest)] = content
        return content

    def add_referrer(
        self, repository: str, subject: Digest, manifest: Content, artifact_type: str
    ) -> None:
        self.add_manifest(repository, manifest)
        self._referrers.setdefault((repository, str(subject)), []).append(
            manifest.descriptor.document() | {"artifactType": artifact_type}
        )

    def right_manifest(self, repository: str, tag: str) -> Content:
        """The manifest to which a tag points."""
        return self._tags[repository][tag]

    def has_repository(self, repository: str) -> bool:
        """Whether it has a manifest in a repository."""
        return repository in self._manifests

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether it has a blob in a repository."""
        return digest in self._blobs.get(repository, {})

    def blob(self, repository: str, digest: str) -> bytes:
        """The content of a blob that it has."""
        return self._blobs[repository][digest].content

    def remove_blob(self, repository: str, digest: Digest) -> None:
        del self._blobs[repository][str(digest)]

    def remove_tag(self, repository: str, tag: str) -> None:
        del self._tags[repository][tag]

    # Faults

    def fault(self, path_part: str, fault: Fault, *, method: str | None = None) -> None:
        """Apply a fault to the answers to requests whose path or query contains *path_part*.

        Several faults add up, in the order in which they were given.
        """
        self._faults.append((path_part, method, fault))
        if fault.times is not None:
            self._left[len(self._faults) - 1] = fault.times

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()
        self._left.clear()

    def hold(self, path_part: str, after_bytes: int = 0, *, method: str | None = None) -> Gate:
        """Hold such answers until the gate is opened.

        They wait after *after_bytes* of the body, or before the head.
        """
        gate = Gate(path_part, after_bytes, method)
        self.gates.append(gate)
        return gate

    def _faults_for(self, request: Request) -> list[Fault]:
        faults = []
        for number, (path_part, method, fault) in enumerate(self._faults):
            if (
                path_part not in request.target
                or method not in {None, request.method}
                or self._left.get(number) == 0
            ):
                continue
            if number in self._left:
                self._left[number] -= 1
            faults.append(fault)
        return faults

    # Answers

    def answer(self, request: Request) -> Answer:
        faults = self._faults_for(request)
        understood = request
        for fault in faults:
            understood = fault.before(understood)
        answer = self.right_answer(understood)
        for fault in faults:
            answer = fault.spoil(understood, answer)
        return answer

    def right_answer(self, request: Request) -> Answer:
        """The answer to a request without any fault."""
        if (content := self.files.get(request.path)) is not None:
            return _ranged(request, Content.of("application/octet-stream", content))
        if (
            self.sign_in is not None
            and (refusal := self.sign_in.admit(request, self.url)) is not None
        ):
            return refusal
        if request.method not in {"GET", "HEAD"}:
            return error(405, "UNSUPPORTED")
        if request.path in {"/v2/", "/v2"}:
            return Answer(
                200,
                (
                    ("Content-Type", "application/json"),
                    ("Docker-Distribution-API-Version", "registry/2.0"),
                ),
                b"{}",
            )
        repository, reference = request.repository, request.path.rpartition("/")[2]
        if repository is None:
            return error(404, "NOT_FOUND")
        if "/blobs/" in request.path:
            blob = self._blobs.get(repository, {}).get(reference)
            return error(404, "BLOB_UNKNOWN") if blob is None else _ranged(request, blob)
        if "/referrers/" in request.path:
            return self._list_referrers(request, repository, reference)
        if "/tags/" in request.path:
            return self._list_tags(request, repository)
        manifest = self._tags.get(repository, {}).get(reference) or self._manifests.get(
            repository, {}
        ).get(reference)
        if manifest is None:
            return error(404, "MANIFEST_UNKNOWN")
        return Answer(
            200,
            (
                ("Content-Type", manifest.media_type),
                ("Docker-Content-Digest", str(manifest.digest)),
            ),
            manifest.content,
        )

    def _list_tags(self, request: Request, repository: str) -> Answer:
        if repository not in self._tags:
            return error(404, "NAME_UNKNOWN")
        query = request.query
        last = query.get("last", [""])[0]
        following = sorted(tag for tag in self._tags[repository] if tag > last)
        n = min(int(query.get("n", [str(self.tags_page)])[0]), self.tags_page)
        page = following[:n]
        body = json.dumps({"name": repository, "tags": page}).encode()
        answer = Answer(200, (("Content-Type", "application/json"),), body)
        if page and len(page) < len(following):
            return answer.with_headers(
                ("Link", f'</v2/{repository}/tags/list?last={page[-1]}&n={n}>; rel="next"')
            )
        return answer

    def _list_referrers(self, request: Request, repository: str, subject: str) -> Answer:
        if not self.has_referrers:
            return error(404, "NOT_FOUND")
        artifact_types = request.query.get("artifactType")
        listed = [
            referrer
            for referrer in self._referrers.get((repository, subject), [])
            if artifact_types is None or referrer["artifactType"] in artifact_types
        ]
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI.index, "manifests": listed}
        ).encode()
        answer = Answer(200, (("Content-Type", OCI.index),), body)
        return (
            answer.with_headers(("OCI-Filters-Applied", "artifactType"))
            if artifact_types
            else answer
        )


def error(status: int, code: str) -> Answer:
    """An error in the form of the distribution specification."""
    return Answer(
        status,
        (("Content-Type", "application/json"),),
        json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(),
    )


def _ranged(request: Request, blob: Content) -> Answer:
    etag = f'"{blob.digest}"'
    whole = Answer(
        200,
        (
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
            ("ETag", etag),
            ("Docker-Content-Digest", str(blob.digest)),
        ),
        blob.content,
    )
    requested_range = _RANGE.fullmatch(request.headers.get("range", ""))
    if requested_range is None or request.headers.get("if-range", etag) != etag:
        return whole
    start = int(requested_range[1])
    end = min(int(requested_range[2]), blob.size - 1) if requested_range[2] else blob.size - 1
    if start >= blob.size or end < start:
        return error(416, "RANGE_INVALID").with_headers(("Content-Range", f"bytes */{blob.size}"))
    part = replace(whole, status=206, body=blob.content[start : end + 1])
    return part.with_headers(("Content-Range", f"bytes {start}-{end}/{blob.size}"))
