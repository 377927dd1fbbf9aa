"""``/entrepot/v1/readers``, ``/tokens`` and the readers of rules."""

from __future__ import annotations

import httpx

from entrepot.config.directories import Directories
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER

RULES = "/entrepot/v1/rules"
TOKENS = "/entrepot/v1/tokens"


async def test_a_token_is_shown_once_and_stored_as_a_hash(
    management: httpx.AsyncClient, directories: Directories
) -> None:
    answer = await management.post(
        TOKENS, json={"name": "ci", "expires": "90d", "groups": ["@ops"]}
    )
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    created = answer.json()
    secret = created["secret"]
    assert secret.startswith("entrepot_")
    listed = (await management.get(TOKENS)).json()
    assert listed == [created["token"]]
    assert (listed[0]["name"], listed[0]["groups"], listed[0]["lastUsed"]) == ("ci", ["ops"], None)
    assert 0 < listed[0]["expires"] - listed[0]["created"] <= 90 * 86_400
    document = directories.tokens.read_text()
    assert secret not in document
    assert 'name = "ci"' in document
    assert directories.tokens.stat().st_mode & 0o077 == 0


async def test_a_token_of_a_taken_name_or_of_no_lifetime_is_refused(
    management: httpx.AsyncClient,
) -> None:
    assert (await management.post(TOKENS, json={"name": "ci"})).status_code == 201
    taken = await management.post(TOKENS, json={"name": "CI"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "TokenAlreadyExists")
    invalid = await management.post(TOKENS, json={"name": "other", "expires": "soon"})
    assert (invalid.status_code, invalid.json()["error"]["target"]) == (400, "expires")


async def test_a_revoked_token_is_gone_and_a_second_revocation_says_so(
    management: httpx.AsyncClient,
) -> None:
    await management.post(TOKENS, json={"name": "ci"})
    answers = [await management.delete(f"{TOKENS}/ci") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 204]
    assert [answer.headers["entrepot-deleted"] for answer in answers] == ["1", "0"]
    assert (await management.get(TOKENS)).json() == []


async def test_the_readers_are_listed_with_the_rules_that_each_may_read(
    management: httpx.AsyncClient,
) -> None:
    await management.post(TOKENS, json={"name": "ci", "groups": ["ops"]})
    await management.post(TOKENS, json={"name": "bob"})
    rule = {
        "name": "acme-private",
        "sourceRepository": f"{LOGIN_SERVER}/acme/*",
        "targetRepository": "acme/*",
        "readers": ["@ops"],
    }
    created = await management.post(RULES, json=rule)
    assert (created.status_code, created.json()["readers"]) == (201, ["@ops"])
    listed = (await management.get("/entrepot/v1/readers")).json()
    assert (listed["anonymousMayRead"], listed["canSignIn"]) == (True, True)
    assert listed["anonymousRules"] == ["example-library"]
    assert {reader["name"]: reader["rules"] for reader in listed["readers"]} == {
        "bob": ["example-library"],
        "ci": ["acme-private", "example-library"],
    }


async def test_the_readers_are_listed_again_only_when_something_changed(
    management: httpx.AsyncClient,
) -> None:
    async def listed(etag: str = "") -> httpx.Response:
        return await management.get("/entrepot/v1/readers", headers={"if-none-match": etag})

    etag = (await listed()).headers["etag"]
    for change in (
        management.post(TOKENS, json={"name": "ci"}),
        management.patch(f"{RULES}/example-library", json={"readers": ["ci"]}),
        management.delete(f"{TOKENS}/ci"),
    ):
        unchanged = await listed(etag)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert (await change).is_success
        answer = await listed(etag)
        assert (answer.status_code, answer.headers["etag"] != etag) == (200, True)
        etag = answer.headers["etag"]


async def test_readers_of_a_rule_change_and_everything_else_stays(
    management: httpx.AsyncClient, directories: Directories
) -> None:
    before = (await management.get(f"{RULES}/example-library")).json()
    assert (before["readers"], before["anonymous"], before["readableBy"]) == ([], None, "everyone")
    etag = (await management.get(RULES)).headers["etag"]
    changed = await management.patch(
        f"{RULES}/example-library", json={"readers": ["ci", "@ops"], "anonymous": False}
    )
    assert changed.status_code == 200
    assert changed.json() == before | {
        "readers": ["ci", "@ops"],
        "anonymous": False,
        "readableBy": "ci, @ops",
    }
    assert 'readers = [\n    "ci",\n    "@ops",\n]' in directories.rules.read_text()
    assert (await management.get(RULES, headers={"if-none-match": etag})).status_code == 200
    opened = await management.patch(f"{RULES}/example-library", json={"anonymous": True})
    assert (opened.json()["readers"], opened.json()["readableBy"]) == (["ci", "@ops"], "everyone")
    reset = await management.patch(
        f"{RULES}/example-library", json={"readers": [], "anonymous": None}
    )
    assert reset.json() == before


async def test_a_name_that_no_reader_has_is_refused_beside_its_field(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    answer = await management.patch(f"{RULES}/example-library", json={"readers": ["a b"]})
    assert (answer.status_code, answer.json()["error"]["target"]) == (400, "readers")
    checked = await management.post("/entrepot/v1/checks/cacheRule", json={"readers": ["a b"]})
    assert [problem["field"] for problem in checked.json()["problems"]] == ["readers"]
    assert engine.rules.book.get("example-library").access.readers == ()


async def test_the_shapes_of_acr_say_nothing_about_readers(management: httpx.AsyncClient) -> None:
    await management.patch(f"{RULES}/example-library", json={"readers": ["ci"]})
    path = (
        "/subscriptions/0/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r/"
        "cacheRules/example-library"
    )
    resource = await management.get(path)
    assert "readers" not in resource.text
    again = await management.put(path, json={"properties": {"freshness": "1 h"}})
    assert again.status_code == 200
    listed = (await management.get(f"{RULES}/example-library")).json()
    assert (listed["readers"], listed["freshness"]) == (["ci"], "1 h")
