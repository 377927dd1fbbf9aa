from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.credentials import (
    CredentialBook,
    CredentialHealth,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetsInvalid,
)
from entrepot.core.registries import SourceRegistries
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.core.states import HealthStatus
from entrepot.errors import NotFound, Refusal

EXAMPLES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "swagger-examples-2023-01-01-preview.json").read_text()
)
NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
REGISTRIES = SourceRegistries()


def draft(
    name: str | None = "hub-login",
    login_server: str | None = "docker.io",
    username: str | None = "env:U",
    password: str | None = "env:P",
) -> CredentialSetDraft:
    return CredentialSetDraft(name, login_server, username, password)


def book_of(*drafts: CredentialSetDraft) -> CredentialBook:
    return CredentialBook.read(((each, NOW) for each in drafts), REGISTRIES)


def refused(book: CredentialBook, wrong: CredentialSetDraft) -> Refusal:
    """The refusal of a draft, after a look that nothing changed."""
    before = list(book)
    with pytest.raises(Refusal) as caught:
        book.parse(wrong)
    assert list(book) == before
    refusal = caught.value
    judged = CredentialSetDraft(
        wrong.name or "", wrong.login_server or "", wrong.username_id or "", wrong.password_id or ""
    )
    assert (refusal.code, refusal.message, refusal.field) in [
        (each.code, each.message, each.field) for each in book.validate(judged).problems
    ]
    assert refusal.hint, "a refusal says what to do"
    return refusal


def test_a_credential_set_is_made_of_identifiers_in_their_normal_form() -> None:
    credential_set = CredentialBook(REGISTRIES).parse(
        draft("Hub-Login", "index.docker.io", "ENV:U", "file:///run/p"), created=NOW
    )
    assert credential_set == CredentialSet(
        "Hub-Login",
        "docker.io",
        SecretIdentifier("env", "U"),
        SecretIdentifier("file", "/run/p"),
        NOW,
    )


@pytest.mark.parametrize(
    ("wrong", "code", "field"),
    [
        (draft(name=None), "InvalidResourceName", "name"),
        (draft(name="hub"), "InvalidResourceName", "name"),
        (draft(name="h" * 51), "InvalidResourceName", "name"),
        (draft(name="hub_login"), "InvalidResourceName", "name"),
        (draft(name="EXISTING"), "CredentialSetAlreadyExists", "name"),
        (draft(login_server=None), "LoginServerInvalid", "loginServer"),
        (draft(login_server="https://docker.io"), "LoginServerInvalid", "loginServer"),
        (draft(login_server="docker.io/library"), "LoginServerInvalid", "loginServer"),
        (draft(login_server="*.azurecr.io"), "LoginServerInvalid", "loginServer"),
        (draft(login_server="registry.example.com"), "UpstreamNotSupported", "loginServer"),
        (draft(login_server="mcr.microsoft.com"), "UpstreamTakesNoCredentials", "loginServer"),
        (draft(login_server="public.ecr.aws"), "UpstreamTakesNoCredentials", "loginServer"),
        (draft(username=None), "SecretIdentifierInvalid", "usernameSecretIdentifier"),
        (draft(username="somebody"), "SecretIdentifierInvalid", "usernameSecretIdentifier"),
        (draft(password=None), "SecretIdentifierInvalid", "passwordSecretIdentifier"),
        (draft(password="hunter2"), "SecretIdentifierInvalid", "passwordSecretIdentifier"),
        (draft(password="keyring:x"), "SecretIdentifierInvalid", "passwordSecretIdentifier"),
    ],
)
def test_a_credential_set_that_can_not_stand_is_refused_for_its_field(
    wrong: CredentialSetDraft, code: str, field: str
) -> None:
    refusal = refused(book_of(draft("existing")), wrong)
    assert (refusal.code, refusal.field) == (code, field)
    assert "hunter2" not in refusal.message


def test_the_vault_of_acrs_own_example_is_taken() -> None:
    properties = EXAMPLES["CredentialSetCreate"]["body"]["properties"]
    credential = properties["authCredentials"][0]
    credential_set = CredentialBook(REGISTRIES).parse(
        CredentialSetDraft(
            "myCredentialSet",
            properties["loginServer"],
            credential["usernameSecretIdentifier"],
            credential["passwordSecretIdentifier"],
        )
    )
    assert (str(credential_set.username), str(credential_set.password)) == (
        "https://myvault.vault.azure.net/secrets/username",
        "https://myvault.vault.azure.net/secrets/password",
    )


def test_all_problems_of_a_draft_are_told_and_what_is_left_out_is_not_judged() -> None:
    book = CredentialBook(REGISTRIES)
    assert book.validate(CredentialSetDraft()).problems == ()
    assert [each.field for each in book.validate(draft("x", "x", "x", "x")).problems] == [
        "name",
        "loginServer",
        "usernameSecretIdentifier",
        "passwordSecretIdentifier",
    ]


def test_only_the_identifiers_of_a_credential_set_can_change() -> None:
    book = book_of(draft())
    changed = book.with_identifiers("HUB-login", password_id="file:/run/p").get("hub-login")
    assert (str(changed.username), str(changed.password), changed.created) == (
        "env:U",
        "file:/run/p",
        NOW,
    )
    assert str(book.get("hub-login").password) == "env:P"
    with pytest.raises(Refusal) as caught:
        book.with_identifiers("hub-login", username_id="somebody")
    assert caught.value.field == "usernameSecretIdentifier"


def test_a_credential_set_that_is_not_there_is_not_found_and_those_that_are_are_named() -> None:
    book = book_of(draft())
    for act in (book.get, book.without, book.with_identifiers):
        with pytest.raises(NotFound, match="hub-login") as caught:
            act("none-such")
        assert (caught.value.code, caught.value.status) == ("CredentialSetNotFound", 404)
    assert book.find("none-such") is None


def test_a_credential_set_is_found_without_regard_to_case_and_sets_come_by_name() -> None:
    book = book_of(draft("b-login"), draft("A-login", "ghcr.io"), draft("c-login"))
    assert book.get("a-LOGIN").name == "A-login"
    assert [each.name for each in book] == ["A-login", "b-login", "c-login"]
    assert [each.name for each in book.for_login_server("docker.io")] == ["b-login", "c-login"]


def test_a_book_never_changes() -> None:
    book = book_of(draft())
    book.with_set(book.parse(draft("another")))
    book.without("hub-login")
    assert [each.name for each in book] == ["hub-login"]
    assert len(book.without("hub-login")) == 0


def test_a_set_whose_name_is_taken_can_not_be_added() -> None:
    book = book_of(draft())
    with pytest.raises(Refusal, match="already"):
        book.with_set(book.get("hub-login"))


def test_all_that_is_wrong_with_a_whole_book_is_told_together() -> None:
    with pytest.raises(CredentialSetsInvalid) as caught:
        book_of(draft(), draft("HUB-login"), draft("other", "mcr.microsoft.com", "me"))
    assert [(position, refusal.code) for position, refusal in caught.value.refusals] == [
        (1, "CredentialSetAlreadyExists"),
        (2, "UpstreamTakesNoCredentials"),
        (2, "SecretIdentifierInvalid"),
    ]


def test_a_book_reads_back_from_its_own_sets() -> None:
    book = book_of(draft(), draft("ghcr-login", "ghcr.io"))
    drafts = ((credential_set.draft, credential_set.created) for credential_set in book)
    assert CredentialBook.read(drafts, REGISTRIES) == book


def test_the_health_of_a_set_is_unknown_until_somebody_tried() -> None:
    assert CredentialHealth().status is HealthStatus.UNKNOWN
