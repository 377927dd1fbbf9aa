"""Proof that a source has the bytes of a blob.

The source sends a range of them, at a random position. A cached copy serves all cache rules. What
came through the credentials of one source registry must not be served through a rule of another
because its source merely names the digest: that source has to send the bytes once itself. A random
range suffices, and costs 64 KiB where the whole blob may have gigabytes.
"""

from __future__ import annotations

import hmac
import secrets

from entrepot.cache.blob_source import BlobSource
from entrepot.core.reference import Digest
from entrepot.store.blobs import BlobStore

PROOF_SIZE = 64 * 1024
"""Bytes that are compared."""

WHOLE_SIZE = 1024 * 1024
"""The size up to which a blob is compared whole where its source ignores ranges, in bytes."""


async def proves(source: BlobSource, blobs: BlobStore, digest: Digest, size: int) -> bool:
    """Whether a source sends the same bytes as the cached copy, which has *size* bytes.

    Raises a `SourceError` where the source sends none, and FileNotFoundError when the copy is gone.
    """
    if size == 0:
        # Every source has these bytes.
        return True
    count = min(PROOF_SIZE, size)
    start = secrets.randbelow(size - count + 1)
    received = bytearray()
    async with source(offset=start, validator=None) as stream:
        if stream.size is not None and stream.size != size:
            return False
        if stream.offset != start:
            if stream.offset != 0 or size > WHOLE_SIZE:
                return False
            start, count = 0, size
        async for chunk in stream:
            received += chunk
            if len(received) >= count:
                break
    cached = b"".join([chunk async for chunk in blobs.read(digest, start, start + count)])
    return len(cached) == count and hmac.compare_digest(cached, received[:count])
