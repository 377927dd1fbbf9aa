"""``entrepot reader`` and ``entrepot token``, and the readers of rules, on a real engine."""

from __future__ import annotations

from entrepot.engine.engine import Engine
from tests.cli.conftest import CommandLine
from tests.cli.test_completion import completed
from tests.conftest import LOGIN_SERVER


async def test_a_token_from_its_creation_to_its_end(entrepot: CommandLine, engine: Engine) -> None:
    created = await entrepot.done("token", "create", "ci", "--expires", "90d", "--group", "@ops")
    secret = created.output.strip()
    assert engine.readers.of_bearer(secret) is not None
    assert secret not in created.errors
    assert "docker login -u ci" in created.errors
    [listed] = await entrepot.ask("token", "list")
    assert (listed["name"], listed["groups"], listed["expired"]) == ("ci", ["ops"], False)
    table = (await entrepot.done("token", "list")).output
    assert "@ops" in table
    assert secret not in table
    taken = await entrepot.run("token", "create", "CI")
    assert (taken.status, "TokenAlreadyExists" in taken.errors) == (1, True)
    await entrepot.done("token", "revoke", "ci", "--yes")
    assert engine.readers.of_bearer(secret) is None
    again = await entrepot.run("token", "revoke", "ci", "--yes")
    assert (again.status, "There is no personal token ci" in again.errors) == (1, True)


async def test_readers_are_listed_with_what_each_may_read(
    entrepot: CommandLine, engine: Engine
) -> None:
    nobody = await entrepot.done("reader", "list")
    assert "Nobody can sign in" in nobody.errors
    await engine.readers.create_token("ci", groups=["ops"])
    listed = await entrepot.done("reader", "list")
    assert listed.errors == ""
    assert "(anonymous)" in listed.output
    [reader] = (await entrepot.ask("reader", "list"))["readers"]
    assert (reader["name"], reader["groups"], reader["rules"]) == (
        "ci",
        ["ops"],
        ["example-library"],
    )
    assert "everyone, and more" in (await entrepot.done("status")).output


async def test_a_rule_has_the_readers_that_it_is_given(
    entrepot: CommandLine, engine: Engine
) -> None:
    source = ("--source-repo", f"{LOGIN_SERVER}/acme/*", "--target-repo", "acme/*")
    created = await entrepot.ask(
        "rule", "create", "-n", "acme-private", *source, "--reader", "ci", "--reader", "@ops"
    )
    assert (created["readers"], created["readableBy"]) == (["ci", "@ops"], "ci, @ops")
    assert "ci, @ops" in (await entrepot.done("rule", "list")).output
    update = ("rule", "update", "-n", "acme-private")
    changed = await entrepot.ask(*update, "--anonymous")
    assert (changed["readers"], changed["readableBy"]) == (["ci", "@ops"], "everyone")
    changed = await entrepot.ask(*update, "--reader", "bob", "--no-anonymous", "--freshness", "1h")
    assert (changed["readers"], changed["anonymous"], changed["freshness"]) == (
        ["bob"],
        False,
        "1 h",
    )
    changed = await entrepot.ask(*update, "--remove-readers")
    assert (changed["readers"], changed["anonymous"], changed["freshness"]) == ([], None, "1 h")
    refused = await entrepot.run(*update, "--reader", "a b")
    assert (refused.status, "ReaderInvalid" in refused.errors) == (1, True)
    both = await entrepot.run(*update, "--reader", "bob", "--remove-readers")
    assert both.status == 2


async def test_names_of_readers_and_tokens_are_completed(
    entrepot: CommandLine, engine: Engine
) -> None:
    await engine.readers.create_token("builder", groups=["ops"])
    assert await completed(entrepot, "entrepot", "token", "revoke", "b") == ["builder"]
    words = ("entrepot", "rule", "update", "--reader")
    assert await completed(entrepot, *words, "@") == ["@ops"]
    assert await completed(entrepot, *words, "") == ["builder", "@ops"]


async def test_a_reader_who_can_not_sign_in_is_warned_of(
    entrepot: CommandLine, engine: Engine
) -> None:
    await engine.readers.create_token("ci", groups=["ops"])
    repositories = ("-s", f"{LOGIN_SERVER}/acme/*", "-t", "acme/*")
    readers = ("--reader", "ci", "--reader", "cj", "--reader", "@ops")
    created = await entrepot.done("rule", "create", "-n", "acme-private", *repositories, *readers)
    assert "Warning: no reader can sign in as cj. " in created.errors
    assert "ci, cj, @ops" in created.output
    updated = await entrepot.done("rule", "update", "-n", "acme-private", "--reader", "@nobody")
    assert "Warning: no reader can sign in as @nobody. " in updated.errors
    updated = await entrepot.done("rule", "update", "-n", "acme-private", "--reader", "@ops")
    assert updated.errors == ""
