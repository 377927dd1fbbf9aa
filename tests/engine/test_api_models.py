"""Conversions of results into the API's models."""

from __future__ import annotations

import json

import msgspec

from entrepot.core.states import CachedState
from entrepot.engine.api_models import tag_image
from entrepot.store.records import ImageBlobRecord, ImageRecord

LAYER = ImageBlobRecord(
    digest="sha256:b",
    media_type="layer",
    size=100,
    cached=False,
    shared_images=3,
    shared_repositories=2,
    shared_with=("library/debian:12",),
)


def test_an_image_record_becomes_the_json_of_the_api() -> None:
    image = ImageRecord(
        digest="sha256:a",
        media_type="manifest",
        platform="linux/amd64",
        size=110,
        cached_size=10,
        state=CachedState.PARTLY_CACHED,
        last_used=5.0,
        locked=True,
        layers=(LAYER,),
    )
    assert json.loads(msgspec.json.encode(tag_image(image))) == {
        "digest": "sha256:a",
        "mediaType": "manifest",
        "platform": "linux/amd64",
        "size": 110,
        "heldSize": 10,
        "holding": "part",
        "lastUsed": 5.0,
        "locked": True,
        "attests": None,
        "config": None,
        "layers": [
            {
                "digest": "sha256:b",
                "mediaType": "layer",
                "size": 100,
                "held": False,
                "sharedImages": 3,
                "sharedRepositories": 2,
                "sharedWith": ["library/debian:12"],
            }
        ],
    }
