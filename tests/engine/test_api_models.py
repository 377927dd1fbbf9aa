"""The API's models of what core returns."""

from __future__ import annotations

import json

import msgspec

from entrepot.api.models import ImportPlan
from entrepot.core.credentials import CredentialBook
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import read_import
from entrepot.core.rules import RuleBook
from entrepot.core.states import CachedState
from entrepot.engine.api_models import import_plan_model, tag_image
from entrepot.store.records import ImageBlobRecord, ImageRecord

REGISTRIES = SourceRegistries()


def credential_set(name: str, login_server: str) -> str:
    return (
        f'[[credential_sets]]\nname = "{name}"\nlogin_server = "{login_server}"\n'
        'username_id = "env:U"\npassword_id = "env:P"\n'
    )


def plan(text: str) -> ImportPlan:
    credentials = CredentialBook(REGISTRIES)
    rules = RuleBook(REGISTRIES, credentials)
    return import_plan_model(read_import(text, rules, credentials))


def test_a_plan_says_where_secrets_are_kept_and_shows_no_secret() -> None:
    """S13: an identifier that is none may be the secret itself."""
    text = credential_set("hub-login", "docker.io") + credential_set("quay-login", "quay.io")
    for identifier, shown_identifier, runs in (
        ("env:U", "env:U", False),
        ("command:/bin/id", "command:/bin/id", True),
        ("docker-helper:ecr-login/username", "docker-helper:ecr-login/username", True),
        ("hunter2", None, False),
    ):
        import_plan = plan(text.replace("env:U", identifier, 1))
        first, second = import_plan.entries
        assert (first.username_id, first.password_id, first.runs_program) == (
            shown_identifier,
            "env:P",
            runs,
        )
        assert (second.username_id, second.runs_program) == ("env:U", False)
        assert [entry.name for entry in import_plan.runs_programs] == (
            ["hub-login"] if runs else []
        )


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
        cached_state=CachedState.PARTLY_CACHED,
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
