"""Texts that a terminal, a log or a shell would obey, and an image that is made of them."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.fakes import FakeRegistry
from tests.fakes.images import FakeImage

TITLE, PASTE = "\x1b]0;OBEYED\x1b\\", "\x1b]52;c;ZXZpbA==\x07"

HOSTILE = f"{TITLE}\x1b[3;3HOBEYED\x1b[20;1H{PASTE}\x9b31m\x9d0;OBEYED\x9c\r\n2026-01-01T00:00:00+00:00 ERROR forged\u202egpj.exe\u2066\x07\x08\x7f"
"""ESC, C1 (CSI, OSC, ST), CR and LF, directions of writing, BEL, BS and DEL."""

COMMANDS = "v1$(touch${IFS}obeyed)`touch${IFS}obeyed`;touch obeyed|touch obeyed\ntouch obeyed\n"
"""What a shell would run, in every way in which it could."""

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def obeyed(text: str) -> list[str]:
    """The characters of *text* that a terminal would obey, besides line breaks and tabs."""
    return _OBEYED.findall(text)


def evil_image(
    source: FakeRegistry, repository: str = "library/evil", *, variant: str = HOSTILE
) -> FakeImage:
    """An image whose index says hostile things in its platform, its media types and its
    annotations. Its layers can be pulled."""
    image = source.add_image(repository, "1", layers=[b"layer"], platforms=["linux/amd64"])
    assert image.index is not None
    index: dict[str, Any] = json.loads(image.index.content)
    child = index["manifests"][0]
    child["platform"]["variant"] = variant
    attestation = (
        source.add_image("library/about", "1", layers=[b"about"], platforms=["linux/s390x"])
        .platforms["linux/s390x"]
        .manifest
    )
    index["manifests"].append(
        {
            "mediaType": f"application/x{HOSTILE}",
            "digest": str(source.add_manifest(repository, attestation).digest),
            "size": attestation.size,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": f"sha256:{HOSTILE}",
            },
        }
    )
    content = json.dumps(index).encode()
    listed = type(image.index).of(image.index.media_type, content)
    source.add_manifest(repository, listed, "1")
    return type(image)(image.repository, image.tag, listed, image.platforms)
