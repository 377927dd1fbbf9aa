"""Every command, on a real engine over its socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from entrepot import __version__
from entrepot.cli.main import _progress
from entrepot.engine import Engine
from entrepot.reference import Repository
from entrepot.settings import Directories
from entrepot.snapshots import PullSnapshot, PullState
from tests.cli.conftest import PATIENCE, CommandLine
from tests.conftest import LOGIN_SERVER, Clock
from tests.standin import StandIn, Status
from tests.test_imports import COMMAND, HEAVY

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
}
SET_KEYS = {"name", "loginServer", "usernameId", "passwordId", "created", "health", "errorCode", "errorMessage", "checked", "usedBy"}
SET = ("--login-server", LOGIN_SERVER, "--username-id", "env:EXAMPLE_USER", "--password-id", "env:EXAMPLE_PASSWORD")

ON_AN_ENGINE = [
    ["status"],
    ["rule", "list"],
    ["rule", "show", "--name", "example-library"],
    ["rule", "create", "--name", "other-rule", "--source-repo", "registry.example.com/a", "--target-repo", "a"],
    ["rule", "update", "--name", "example-library", "--remove-cred-set"],
    ["rule", "delete", "--name", "example-library", "--yes"],
    ["credential-set", "list"],
    ["credential-set", "show", "--name", "example-set"],
    ["credential-set", "create", "--name", "example-set", *SET],
    ["credential-set", "update", "--name", "example-set", "--username-id", "env:OTHER"],
    ["credential-set", "check", "--name", "example-set"],
    ["credential-set", "delete", "--name", "example-set", "--yes"],
    ["repository", "list"],
    ["repository", "show", "library/nginx"],
    ["repository", "delete", "library/nginx", "--yes"],
    ["repository", "lock", "library/nginx:1.27"],
    ["repository", "unlock", "library/nginx"],
    ["evict", "--dry-run"],
    ["evict", "--yes"],
    ["pull", "library/nginx:1.27"],
    ["doctor"],
]
"""Every command that asks an engine, as it would succeed if there were one."""


def _words(arguments: list[str]) -> str:
    return " ".join(arguments[:2])


# Without an engine


@pytest.mark.parametrize("arguments", ON_AN_ENGINE, ids=_words)
async def test_without_an_engine_a_command_says_how_to_start_one(arguments: list[str], alone: CommandLine) -> None:
    ended = await alone.run(*arguments)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors == "Error: No engine is running. Start one with: entrepot serve (EngineUnreachable)\n"


async def test_a_socket_that_nobody_listens_on_is_no_engine(alone: CommandLine, directories: Directories) -> None:
    directories.make()
    directories.socket.touch()
    assert (await alone.run("status")).status == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["rule", "nonsense"], "No such command 'nonsense'"),
        (["rule", "create"], "Missing option '--name'"),
        (["rule", "create", "--name", "example"], "Missing option '--source-repo'"),
        (["rule", "show", "example"], "Missing option '--name'"),
        (["rule", "update", "--name", "example"], "There is nothing to change: give --cred-set, --remove-cred-set or --freshness."),
        (["rule", "update", "--name", "example", "--cred-set", "a", "--remove-cred-set"], "can't be used together"),
        (["credential-set", "update", "--name", "example"], "There is nothing to change: give --username-id, --password-id or both."),
        (["credential-set", "create", "--name", "example", "--login-server", "docker.io"], "Missing option '--username-id'"),
        (["repository", "show"], "Missing argument 'NAME[:TAG]'"),
        (["repository", "show", f"library/nginx@sha256:{'0' * 64}"], "is named by its digest. Name a repository, or a tag of it."),
        (["repository", "lock"], "Missing argument 'NAME[:TAG]'"),
        (["evict", "--to", "a lot"], "'a lot' is not a size. Write 50GB, 50GiB, or a number of bytes."),
        (["pull"], "Missing argument 'IMAGE'"),
        (["status", "--nonsense"], "No such option"),
        (["serve", "--log-format", "xml"], "is not one of"),
        (["rule", "delete", "--name", "example"], "Without a terminal, say so with --yes."),
        (["credential-set", "delete", "--name", "example"], "Without a terminal, say so with --yes."),
        (["repository", "delete", "library/nginx"], "Without a terminal, say so with --yes."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_wrong_usage_is_told_before_an_engine_is_asked(arguments: list[str], told: str, alone: CommandLine) -> None:
    ended = await alone.run(*arguments)
    assert (ended.status, ended.output) == (2, "")
    assert told in ended.errors


async def test_help_names_every_command_in_the_order_of_need(alone: CommandLine) -> None:
    ended = await alone.done("--help")
    places = [
        ended.output.index(f"\n  {each} ")
        for each in ("demo", "serve", "status", "rule", "credential-set", "repository", "evict", "pull", "refresh", "doctor", "paths")
    ]
    assert places == sorted(places)
    assert (await alone.done("-h")).output == ended.output


async def test_the_version(alone: CommandLine) -> None:
    assert (await alone.done("--version")).output == f"entrepot, version {__version__}\n"


async def test_paths_follow_the_variables(alone: CommandLine, directories: Directories) -> None:
    assert await alone.ask("paths") == {
        "settings": str(directories.settings),
        "rules": str(directories.rules),
        "credentials": str(directories.credentials),
        "data": str(directories.data),
        "socket": str(directories.socket),
        "log": str(directories.log),
    }
    assert f"rules        {directories.rules}\n" in (await alone.done("paths")).output


# Status


async def test_status_shows_the_engine(entrepot: CommandLine, engine: Engine) -> None:
    found = await entrepot.ask("status")
    assert (found["version"], found["address"], found["rules"], found["rulesLimit"], found["demo"]) == (__version__, engine.address, 1, 1000, False)
    told = (await entrepot.done("status")).output
    assert f"Registry         {engine.address}\n" in told
    assert "Cache rules      1 of 1,000\n" in told
    assert "Last 24 hours    nothing was pulled\n" in told


async def test_status_says_what_the_cache_did_in_the_last_day(entrepot: CommandLine, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    for _ in range(2):
        await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    found = (await entrepot.ask("status"))["lastDay"]
    assert (found["hits"], found["misses"], found["requestsSaved"]) == (2, 2, 2)
    told = (await entrepot.done("status")).output
    assert "Last 24 hours    50% of 4 answers from the cache, 0 B served, " in told
    assert told.splitlines()[-1].endswith(" from sources, 2 requests to them saved")


async def test_what_an_administrator_should_know_goes_to_standard_error(entrepot: CommandLine, engine: Engine) -> None:
    await entrepot.done("credential-set", "create", "--name", "example-set", *SET)
    await engine.check_sign_in("example-set")
    ended = await entrepot.done("status")
    assert ended.errors.startswith("! example-set is unhealthy: ")
    assert "unhealthy" not in ended.output


# Cache rules


async def test_a_rule_from_its_creation_to_its_end(entrepot: CommandLine, engine: Engine) -> None:
    made = await entrepot.ask("rule", "create", "--name", "acme-api", "--source-repo", f"{LOGIN_SERVER}/acme/api", "--target-repo", "api")
    assert made.keys() == RULE_KEYS
    assert (made["name"], made["sourceRepository"], made["targetRepository"], made["credentialSet"]) == ("acme-api", f"{LOGIN_SERVER}/acme/api", "api", None)
    assert [each["name"] for each in await entrepot.ask("rule", "list")] == ["acme-api", "example-library"]
    assert await entrepot.ask("rule", "show", "--name", "ACME-API") == made
    await entrepot.done("credential-set", "create", "-n", "example-set", *SET)
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "-c", "example-set"))["credentialSet"] == "example-set"
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "--remove-cred-set"))["credentialSet"] is None
    ended = await entrepot.done("rule", "delete", "-n", "acme-api", "--yes")
    assert (ended.output, ended.errors) == ("", "The cache rule acme-api is deleted.\n")
    assert [rule.name for rule in engine.documents.rules] == ["example-library"]


async def test_rules_are_listed_in_columns(entrepot: CommandLine) -> None:
    title, line = (await entrepot.done("rule", "list")).output.splitlines()
    assert title.split("  ")[0] == "Name"
    assert line.split() == ["example-library", f"{LOGIN_SERVER}/library/*", "library/*", "-", "5", "min", "0", "never"]


async def test_a_rule_is_shown_in_lines(entrepot: CommandLine) -> None:
    told = (await entrepot.done("rule", "show", "--name", "example-library")).output
    assert f"Source               {LOGIN_SERVER}/library/*\n" in told
    assert "Credential set       none\n" in told
    assert "Freshness            5 min (the default)\n" in told


async def test_the_freshness_of_a_rule_is_given_changed_and_taken_back(entrepot: CommandLine) -> None:
    arguments = ("--source-repo", f"{LOGIN_SERVER}/acme/api", "--target-repo", "api")
    assert (await entrepot.ask("rule", "create", "-n", "acme-api", *arguments, "--freshness", "90s"))["freshness"] == "90 s"
    assert (await entrepot.ask("rule", "update", "-n", "acme-api", "--freshness", "never"))["freshness"] == "never"
    changed = await entrepot.ask("rule", "update", "-n", "acme-api", "--freshness", "default")
    assert (changed["freshness"], changed["freshnessInForce"]) == (None, "5 min")
    refused = await entrepot.run("rule", "update", "-n", "acme-api", "--freshness", "soon")
    assert refused.status == 1
    assert "'soon' is not a freshness" in refused.errors
    assert "FreshnessInvalid" in refused.errors


async def test_a_tag_is_refreshed_and_it_is_told_what_became_of_it(entrepot: CommandLine, source: StandIn) -> None:
    old = source.add_image("library/nginx", "1", layers=[b"old"])
    assert (await entrepot.done("refresh", "library/nginx:1")).output == f"library/nginx:1 is new here: {old.digest}.\n"
    assert (await entrepot.done("refresh", "library/nginx:1")).output == f"library/nginx:1 is unchanged: {old.digest}.\n"
    new = source.add_image("library/nginx", "1", layers=[b"new"])
    assert (await entrepot.done("refresh", "library/nginx:1")).output == f"library/nginx:1 moved from {old.digest} to {new.digest}.\n"
    assert source.count("GET", "/blobs/") == 0
    source.remove_tag("library/nginx", "1")
    assert (
        await entrepot.done("refresh", "library/nginx:1")
    ).output == f"library/nginx:1 is gone at {LOGIN_SERVER}/library/nginx; {new.digest} is held and stays.\n"
    await source.stop()
    ended = await entrepot.run("refresh", "library/nginx:1")
    assert ended.status == 1
    assert f"library/nginx:1 stays at {new.digest}, as it is held: {LOGIN_SERVER} (127.0.0.1) can't be reached" in ended.output
    by_digest = await entrepot.run("refresh", f"library/nginx@{new.digest}")
    assert (by_digest.status, "never changes" in by_digest.errors) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["rule", "create", "-n", "abc", "-s", "registry.example.com/a", "-t", "a"], "InvalidResourceName"),
        (["rule", "create", "-n", "docker-hub", "-s", "docker.io/library/nginx", "-t", "nginx"], "EnforceDockerAuthentication"),
        (["rule", "create", "-n", "nowhere", "-s", "nowhere.example.org/a", "-t", "a"], "UpstreamNotSupported"),
        (["rule", "create", "-n", "with-tag", "-s", "registry.example.com/a:1", "-t", "a"], "GenericRepositoryNameInvalid"),
        (["rule", "create", "-n", "overlap", "-s", "registry.example.com/a/*", "-t", "library/*"], "CacheRuleTargetOverlap"),
        (["rule", "create", "-n", "example-LIBRARY", "-s", "registry.example.com/a", "-t", "a"], "CacheRuleAlreadyExists"),
        (["rule", "create", "-n", "unknown-set", "-s", "registry.example.com/a", "-t", "a", "-c", "no-such-set"], "CredentialSetNotFound"),
        (["rule", "show", "-n", "no-such-rule"], "CacheRuleNotFound"),
        (["rule", "update", "-n", "no-such-rule", "--remove-cred-set"], "CacheRuleNotFound"),
        (["rule", "delete", "-n", "no-such-rule", "--yes"], "CacheRuleNotFound"),
        (["credential-set", "create", "-n", "plain-text", "-l", "registry.example.com", "-u", "me", "-p", "secret"], "SecretIdentifierInvalid"),
        (["credential-set", "create", "-n", "nowhere", "-l", "nowhere.example.org", "-u", "env:A", "-p", "env:B"], "UpstreamNotSupported"),
        (["credential-set", "show", "-n", "no-such-set"], "CredentialSetNotFound"),
        (["credential-set", "update", "-n", "no-such-set", "-u", "env:A"], "CredentialSetNotFound"),
        (["credential-set", "delete", "-n", "no-such-set", "--yes"], "CredentialSetNotFound"),
        (["repository", "show", "library/nothing"], "ResourceNotFound"),
        (["repository", "delete", "library/nothing", "--yes"], "ResourceNotFound"),
        (["repository", "show", "Not A Name"], "GenericRepositoryNameInvalid"),
        (["pull", "nobody/app:1"], "NameUnknown"),
        (["pull", "library/Nginx:1.27"], "GenericRepositoryNameInvalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_refusal_is_one_line_with_its_code(arguments: list[str], code: str, entrepot: CommandLine, engine: Engine) -> None:
    before = engine.directories.rules.read_bytes()
    ended = await entrepot.run(*arguments)
    assert (ended.status, ended.output) == (1, "")
    assert ended.errors.startswith("Error: ")
    assert ended.errors.count("\n") == 1
    assert ended.errors.endswith(f"({code})\n"), ended.errors
    assert engine.directories.rules.read_bytes() == before


async def test_empty_listings_say_what_to_do(entrepot: CommandLine) -> None:
    await entrepot.done("rule", "delete", "-n", "example-library", "-y")
    for group, told in (
        ("rule", "There is no cache rule yet."),
        ("credential-set", "There is no credential set yet."),
        ("repository", "Nothing is cached yet."),
    ):
        ended = await entrepot.done(group, "list")
        assert ended.output == ""
        assert ended.errors.startswith(told)
        assert await entrepot.ask(group, "list") == []


# Credential sets


async def test_a_credential_set_from_its_creation_to_its_end(entrepot: CommandLine, engine: Engine) -> None:
    made = await entrepot.ask("credential-set", "create", "--name", "example-set", *SET)
    assert made.keys() == SET_KEYS
    assert (made["loginServer"], made["usernameId"], made["passwordId"]) == (LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD")
    assert [each["name"] for each in await entrepot.ask("credential-set", "list")] == ["example-set"]
    changed = await entrepot.ask("credential-set", "update", "-n", "example-set", "-u", "env:OTHER_USER")
    assert (changed["usernameId"], changed["passwordId"]) == ("env:OTHER_USER", "env:EXAMPLE_PASSWORD")
    await entrepot.done("rule", "update", "-n", "example-library", "-c", "example-set")
    refused = await entrepot.run("credential-set", "delete", "-n", "example-set", "--yes")
    assert refused.status == 1
    assert "example-library" in refused.errors
    assert refused.errors.endswith("(CredentialSetInUse)\n")
    await engine.check_sign_in("example-set")
    told = (await entrepot.done("credential-set", "show", "-n", "example-set")).output
    assert "Used by       example-library\n" in told
    assert "Health        Unhealthy\n" in told
    assert (await entrepot.done("credential-set", "list")).output.splitlines()[1].split()[-2:] == ["1", "rule"]
    await entrepot.done("rule", "update", "-n", "example-library", "--remove-cred-set")
    ended = await entrepot.done("credential-set", "delete", "-n", "example-set", "--yes")
    assert ended.errors == "The credential set example-set is deleted.\n"
    assert list(engine.documents.credential_sets) == []


# Pulls and cached repositories


async def test_rules_are_imported_all_or_none(entrepot: CommandLine, engine: Engine, tmp_path: Path) -> None:
    good = f'[[rules]]\nname = "acme-app"\nsource_repository = "{LOGIN_SERVER}/acme/*"\ntarget_repository = "acme/*"\n'
    file = tmp_path / "rules.toml"
    file.write_text(good + good.replace("acme-app", "acme-two"))
    refused = await entrepot.run("rule", "import", str(file))
    assert (refused.status, len(engine.documents.rules)) == (1, 1)
    assert "Error: line 5: acme-two: " in refused.errors
    assert refused.errors.endswith("Nothing is imported.\n")
    file.write_text(good)
    assert (await entrepot.done("rule", "import", "--dry-run", str(file))).errors == "1 would be imported, 0 unchanged.\n"
    assert len(engine.documents.rules) == 1
    assert (await entrepot.done("rule", "import", str(file))).errors == "1 imported, 0 unchanged.\n"
    assert [each["outcome"] for each in (await entrepot.ask("rule", "import", str(file)))["entries"]] == ["unchanged"]
    assert len(engine.documents.rules) == 2


async def test_which_rule_answers_for_an_image(entrepot: CommandLine) -> None:
    told = (await entrepot.done("rule", "match", "library/nginx:1.27")).output
    assert f"Rule            example-library\nSource          {LOGIN_SERVER}/library/nginx\n" in told
    none = await entrepot.run("rule", "match", "nginx")
    assert (none.status, "example-library: library/* from" in none.output) == (1, True)


async def test_a_dry_run_of_a_deletion_deletes_nothing(entrepot: CommandLine, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    told = (await entrepot.done("repository", "delete", "library/nginx", "--dry-run")).output
    assert "Would be deleted  library/nginx\nGoes              1 tag, 2 manifests, " in told
    assert (await entrepot.done("rule", "delete", "--name", "example-library", "--dry-run")).output.endswith("Left without a rule  library/nginx\n")
    await entrepot.done("repository", "lock", "library/nginx")
    refused = await entrepot.run("repository", "delete", "library/nginx", "--dry-run")
    assert (refused.status, "Refused " in refused.output) == (1, True)
    assert ([each.name for each in engine.documents.rules], await engine.catalog.repository_names()) == (["example-library"], ["library/nginx"])


async def test_a_tag_with_its_images_and_layers(entrepot: CommandLine, engine: Engine, source: StandIn) -> None:
    shared = b"shared" * 1000
    image = source.add_image("library/nginx", "1.27", layers=[shared, b"own"])
    source.add_image("library/debian", "12", layers=[shared], platforms=["linux/arm64"])
    for each in ("library/nginx:1.27", "library/debian:12"):
        await entrepot.done("pull", each, "--platform", "linux/arm64")
    found = await entrepot.ask("repository", "show", "library/nginx:1.27")
    assert [(each["platform"], each["holding"]) for each in found["images"]] == [("linux/amd64", "nothing"), ("linux/arm64", "whole")]
    assert found["sharedSize"] == len(shared)
    told = (await entrepot.done("repository", "show", "library/nginx:1.27")).output
    assert "Tag     library/nginx:1.27\n" in told
    arm = image.platforms["linux/arm64"]
    assert re.search(rf"^linux/arm64  {arm.digest.short}  .* whole ", told, re.MULTILINE)
    assert re.search(r"^linux/amd64  .* no ", told, re.MULTILINE)
    assert re.search(rf"^{arm.layers[0].digest.short}  6\.0 kB  yes   layer   library/debian:12$", told, re.MULTILINE)
    assert re.search(rf"^{arm.layers[1].digest.short}     3 B  yes   layer   -$", told, re.MULTILINE)


async def test_a_pull_ends_in_one_line_and_the_image_is_held(entrepot: CommandLine, source: StandIn) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[200_000, 50_000])
    size = image.platforms["linux/arm64"].size
    ended = await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/arm64")
    assert ended.output == ""
    last = ended.errors.splitlines()[-1]
    assert last.startswith("library/nginx:1.27 linux/arm64: ")
    assert f"from {LOGIN_SERVER} in " in last
    again = await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/arm64")
    assert again.errors.endswith("all of it was held already.\n")

    [listed] = await entrepot.ask("repository", "list")
    assert (listed["name"], listed["sourceRepository"], listed["rule"], listed["tags"]) == (
        "library/nginx",
        f"{LOGIN_SERVER}/library/nginx",
        "example-library",
        1,
    )
    assert listed["size"] >= size
    shown = await entrepot.ask("repository", "show", "library/nginx")
    assert shown["repository"].keys() == listed.keys()
    assert [(tag["name"], tag["platforms"], tag["gone"]) for tag in shown["tags"]] == [("1.27", ["linux/arm64"], False)]
    assert (await entrepot.done("repository", "list")).output.splitlines()[1].startswith(f"library/nginx  {LOGIN_SERVER}/library/nginx  example-library  ")
    assert "1.27  linux/arm64  " in (await entrepot.done("repository", "show", "library/nginx")).output

    await entrepot.done("repository", "delete", "library/nginx", "--yes")
    assert await entrepot.ask("repository", "list") == []


async def test_a_pull_in_json_is_its_last_picture(entrepot: CommandLine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    found = await entrepot.ask("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert (found["state"], found["repository"], found["tag"], found["askedBy"]) == ("completed", "library/nginx", "1.27", ["cli"])
    assert found["received"] == found["size"] > 0
    assert {layer["state"] for layer in found["layers"]} == {"verified"}


async def test_progress_is_told_in_lines_where_there_is_no_terminal(entrepot: CommandLine, source: StandIn) -> None:
    layer = source.add_image("library/nginx", "1.27", layers=[os.urandom(500_000)]).platforms["linux/amd64"].layers[0]
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    process = await entrepot.start("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stderr.readline()).decode()
        assert line.startswith("library/nginx:1.27 [")
        assert "\r" not in line
        assert "\x1b" not in line
        await gate.reached
        gate.open()
        _, rest = await process.communicate()
    assert process.returncode == 0
    assert rest.decode().splitlines()[-1].startswith("library/nginx:1.27 linux/amd64: ")


async def test_a_pull_of_an_unknown_tag_fails(entrepot: CommandLine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    ended = await entrepot.run("pull", "library/nginx:9.99")
    assert (ended.status, ended.output) == (1, "")
    assert "9.99" in ended.errors


async def test_a_pull_of_a_platform_that_the_image_does_not_have_fails(entrepot: CommandLine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    ended = await entrepot.run("pull", "library/nginx:1.27", "--platform", "linux/s390x")
    assert (ended.status, ended.output) == (1, "")
    assert ended.errors.startswith("Error: ")
    assert "linux/s390x" in ended.errors


async def test_a_pull_that_the_source_refuses_fails_with_its_reason(entrepot: CommandLine, source: StandIn) -> None:
    layer = source.add_image("library/nginx", "1.27").platforms["linux/amd64"].layers[0]
    source.fault(str(layer.digest), Status(403), method="GET")
    ended = await entrepot.run("pull", "library/nginx:1.27", "--platform", "linux/amd64", "--json")
    assert ended.status == 1
    assert ended.document["state"] == "failed"
    assert ended.errors.startswith("Error: the pull of library/nginx:1.27 failed: ")
    assert ended.errors.endswith("(SourceRefused)\n")


async def test_ctrl_c_leaves_the_pull_to_the_engine(entrepot: CommandLine, engine: Engine, source: StandIn) -> None:
    layer = source.add_image("library/nginx", "1.27", layers=[os.urandom(500_000)]).platforms["linux/amd64"].layers[0]
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    process = await entrepot.start("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await gate.reached
        await process.stderr.readline()
        process.send_signal(2)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "The pull goes on in the engine. The dashboard shows it under Pulls, where x cancels it." in errors.decode()
    assert "Traceback" not in errors.decode()
    [pull] = engine.cache.pulls.all()
    assert not pull.state.ended
    gate.open()
    async with asyncio.timeout(PATIENCE):
        await pull.over.wait()
    assert pull.state is PullState.COMPLETED


# Locks and eviction


async def _cached(entrepot: CommandLine, engine: Engine, source: StandIn, clock: Clock, *names: str) -> None:
    for name in names:
        source.add_image(f"library/{name}", "1", layers=[os.urandom(100_000)])
        await entrepot.done("pull", f"library/{name}:1", "--platform", "linux/amd64")
        clock.now += 3600
    await engine.cache.ledger.write()


async def test_a_locked_repository_shows_its_lock_and_can_not_be_deleted(entrepot: CommandLine, engine: Engine, source: StandIn, clock: Clock) -> None:
    await _cached(entrepot, engine, source, clock, "nginx")
    ended = await entrepot.done("repository", "lock", "library/nginx")
    assert ended.errors == "library/nginx is locked: it is not evicted and can't be deleted.\n"
    assert (await entrepot.ask("repository", "list"))[0]["locked"] is True
    assert (await entrepot.done("repository", "list")).output.splitlines()[1].endswith("  locked")
    assert "Locked  yes: nothing of it is evicted or deleted\n" in (await entrepot.done("repository", "show", "library/nginx")).output
    refused = await entrepot.run("repository", "delete", "library/nginx", "--yes")
    assert refused.status == 1
    assert refused.errors == ("Error: library/nginx is locked. Unlock it first: entrepot repository unlock library/nginx (REGISTRY_DISALLOWED_OPERATION)\n")
    assert (await entrepot.done("repository", "unlock", "library/nginx")).errors == "library/nginx is unlocked.\n"
    await entrepot.done("repository", "delete", "library/nginx", "--yes")


async def test_a_tag_and_a_manifest_are_locked_for_themselves(entrepot: CommandLine, engine: Engine, source: StandIn, clock: Clock) -> None:
    await _cached(entrepot, engine, source, clock, "nginx")
    await entrepot.done("repository", "lock", "library/nginx:1")
    shown = await entrepot.ask("repository", "show", "library/nginx")
    assert (shown["repository"]["locked"], shown["tags"][0]["locked"]) == (False, True)
    assert "  locked, " in (await entrepot.done("repository", "show", "library/nginx")).output
    digest = shown["tags"][0]["digest"]
    await entrepot.done("repository", "lock", f"library/nginx@{digest}")
    await entrepot.done("repository", "unlock", "library/nginx:1")
    assert [each.locked for each in await engine.catalog.held_manifests(Repository("library/nginx")) if str(each.digest) == digest] == [True]
    missing = await entrepot.run("repository", "lock", "library/nginx:2")
    assert (missing.status, missing.errors.startswith("Error: library/nginx holds no tag 2.")) == (1, True)
    wrong = await entrepot.run("repository", "lock", "Library")
    assert (wrong.status, "GenericRepositoryNameInvalid" in wrong.errors) == (1, True)


async def test_a_dry_run_shows_what_would_go(entrepot: CommandLine, engine: Engine, source: StandIn, clock: Clock) -> None:
    await _cached(entrepot, engine, source, clock, "a", "b")
    ended = await entrepot.done("evict", "--dry-run", "--to", "150kB")
    title, line = ended.output.splitlines()
    assert title.split() == ["Image", "Platform", "Digest", "Frees", "Used"]
    assert line.startswith("library/a:1  linux/amd64  ")
    assert " 100.4 kB " in line
    assert ended.errors == "1 image would go, and free 100.4 kB.\n"
    planned = await entrepot.ask("evict", "--dry-run", "--to", "150kB")
    assert (planned["dryRun"], [each["repository"] for each in planned["images"]]) == (True, ["library/a"])
    assert len(await entrepot.ask("repository", "list")) == 2


async def test_eviction_says_what_went_and_what_could_not(entrepot: CommandLine, engine: Engine, source: StandIn, clock: Clock) -> None:
    await _cached(entrepot, engine, source, clock, "a", "b")
    nothing = await entrepot.done("evict")
    assert nothing.errors.startswith("Nothing goes: 200.8 kB of ")
    await entrepot.done("repository", "lock", "library/b")
    unasked = await entrepot.run("evict", "--to", "0")
    assert (unasked.status, "Evict 1 image and free 100.4 kB? See them with --dry-run. Without a terminal, say so with --yes." in unasked.errors) == (2, True)
    ended = await entrepot.done("evict", "--to", "0", "--yes")
    assert ended.errors == "1 image evicted, 100.4 kB freed.\nThe goal of 0 B is missed by 100.4 kB: what is left is locked or in use.\n"
    assert [each["name"] for each in await entrepot.ask("repository", "list")] == ["library/b"]
    status = (await entrepot.done("status")).output
    assert re.search(r"^Held +100\.4 kB of \d+\.\d [GT]B, \d+\.\d [GT]B free on the file system$", status, re.MULTILINE)


# A terminal


@pytest.mark.parametrize(("answer", "deleted"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
async def test_in_a_terminal_a_deletion_is_asked_about(answer: bytes, deleted: bool, entrepot: CommandLine, engine: Engine) -> None:
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, answer)
        ended = await entrepot.run("rule", "delete", "-n", "example-library", stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert ended.errors.startswith("Delete the cache rule example-library? What it cached stays.")
    assert ended.status == (0 if deleted else 1)
    assert (len(engine.documents.rules) == 0) is deleted


def _running(repository: str, tag: str) -> PullSnapshot:
    return PullSnapshot(
        id="1",
        repository=repository,
        tag=tag,
        digest=None,
        platform="linux/amd64",
        rule="example-library",
        login_server=LOGIN_SERVER,
        source_repository=repository,
        state=PullState.RUNNING,
        started=0.0,
        size=200_000_000,
        received=50_000_000,
        speed=10_000_000.0,
        time_left=15.0,
    )


def test_progress_shows_share_speed_and_time_left() -> None:
    assert _progress(_running("library/nginx", "1.27")) == "library/nginx:1.27 [######------------------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (200, "library/nginx:1.27 [######------------------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
        (79, "library/nginx:1.27 [##--------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
        (70, "library/nginx:1.27  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
        (60, "...ginx:1.27  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
    ],
)
def test_progress_fits_into_the_terminal(columns: int, line: str) -> None:
    assert _progress(_running("library/nginx", "1.27"), columns) == line


def test_progress_is_never_longer_than_the_terminal_is_wide() -> None:
    for pull in (_running("a", "1"), _running("acme/a-repository-with-a-long-name/of-several-parts", "2026.11.24-nightly")):
        for columns in range(20, 140):
            assert len(_progress(pull, columns)) <= columns


async def test_in_a_terminal_progress_stays_on_its_line(entrepot: CommandLine, source: StandIn) -> None:
    name = "library/" + "long-" * 14 + "name"
    layer = source.add_image(name, "1.27", layers=[os.urandom(500_000)]).platforms["linux/amd64"].layers[0]
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    running = asyncio.create_task(entrepot.in_terminal("pull", f"{name}:1.27", "--platform", "linux/amd64", columns=80))
    async with asyncio.timeout(PATIENCE):
        await gate.reached
        gate.open()
        status, told = await running
    assert status == 0
    *drawn, last = told.removesuffix("\n").removeprefix("\r").split("\r")
    assert drawn
    assert "\n" not in told.removesuffix("\n")
    assert max(len(each.removesuffix("\x1b[K")) for each in drawn) <= 79
    assert last.startswith(f"{name}:1.27 linux/amd64: ")


# Serving


async def test_serve_runs_until_it_is_asked_to_end(alone: CommandLine, directories: Directories) -> None:
    process = await alone.start("serve", "--listen", "127.0.0.1:0", "--log-format", "json")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        line = json.loads(await process.stderr.readline())
        assert line["kind"] == "engine-started"
        assert stat.S_IMODE(directories.socket.stat().st_mode) == 0o600
        second = await alone.run("serve", "--listen", "127.0.0.1:0")
        assert second.status == 1
        assert second.errors.startswith("Error: Another engine runs on the data in ")
        process.terminate()
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in errors.decode()
    assert not directories.socket.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (["--listen", "nonsense"], "", "'nonsense' is not an address to listen on."),
        ([], 'listen = "nonsense"\n', "settings.toml, line 1: 'nonsense' is not an address to listen on."),
        ([], "fresness = 3\n", "settings.toml, line 1: "),
        (["--listen", "192.0.2.1:0"], "", "The registry can't listen on 192.0.2.1:0"),
    ],
)
async def test_serve_says_in_one_line_why_it_can_not_start(
    arguments: list[str], settings: str, told: str, alone: CommandLine, directories: Directories
) -> None:
    directories.config.mkdir(parents=True)
    directories.settings.write_text(settings)
    ended = await alone.run("serve", *arguments)
    assert ended.status == 1
    assert told in ended.errors
    assert ended.errors.startswith("Error: ")
    assert ended.errors.count("\n") == 1


async def test_a_runtime_directory_with_a_long_path_is_one_line(alone: CommandLine, tmp_path: Path) -> None:
    ended = await alone.run("serve", variables={"XDG_RUNTIME_DIR": str(tmp_path / ("long" * 30))})
    assert ended.status == 1
    assert ended.errors.startswith("Error: The path of the management socket is too long")


async def test_a_reader_that_leaves_early_is_no_error(entrepot: CommandLine) -> None:
    process = await entrepot.start("rule", "list", "--json")
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        errors = await process.stderr.read()
        status = await process.wait()
    assert errors == b""
    assert status in {1, 141}


@pytest.mark.parametrize("arguments", [["paths"], ["paths", "--json"], ["rule", "list"], ["rule", "show", "-n", "example-library"]], ids=" ".join)
async def test_an_output_that_takes_no_more_is_an_error_in_one_line(arguments: list[str], entrepot: CommandLine) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await entrepot.start(*arguments, stdout=full)
    finally:
        os.close(full)
    async with asyncio.timeout(PATIENCE):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode() == "Error: Standard output can't be written: No space left on device.\n"


async def test_a_check_of_a_credential_set_tells_its_health_with_its_status(entrepot: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    await entrepot.done("credential-set", "create", "--name", "example-set", *SET)
    found = await entrepot.ask("credential-set", "check", "--name", "Example-Set")
    assert (found["name"], found["health"]) == ("example-set", "Healthy")
    monkeypatch.delenv("EXAMPLE_PASSWORD")
    ended = await entrepot.run("credential-set", "check", "--name", "example-set")
    assert ended.status == 1
    assert "Health        Unhealthy\n" in ended.output
    assert "EXAMPLE_PASSWORD is not set" in ended.output
    missing = await entrepot.run("credential-set", "check", "--name", "none-such")
    assert (missing.status, "(CredentialSetNotFound)" in missing.errors) == (1, True)


async def test_the_doctor_tells_a_line_for_each_check_and_ends_with_1_when_one_fails(entrepot: CommandLine, source: StandIn) -> None:
    ended = await entrepot.done("doctor")
    assert f"ok    {LOGIN_SERVER}: sign-in: lets us in without credentials\n" in ended.output
    assert "ok    this machine: data directory: " in ended.output
    found = await entrepot.ask("doctor", "--rule", "example-library")
    assert {each["outcome"] for each in found} == {"ok"}
    await source.stop()
    ended = await entrepot.run("doctor")
    assert ended.status == 1
    assert f"FAIL  {LOGIN_SERVER}: connection: " in ended.output
    assert "takes no connections. Check the network" in ended.output
    assert ended.errors.startswith("1 check of ")


# Read-only, and fast


async def test_a_read_only_command_changes_nothing(entrepot: CommandLine, engine: Engine) -> None:
    ended = await entrepot.run("--read-only", "rule", "delete", "--name", "example-library", "--yes")
    assert (ended.status, ended.output) == (1, "")
    assert ended.errors == (
        "Error: Nothing was changed: this client bound itself to reading. Start it without --read-only to change something. (EngineReadOnly)\n"
    )
    assert (await entrepot.done("--read-only", "evict", "--dry-run")).errors.startswith("Nothing goes")
    assert "read-only" in (await entrepot.done("--read-only", "status")).output
    assert len(engine.documents.rules) == 1


@pytest.mark.parametrize("arguments", [["serve", "--read-only"], ["--read-only", "serve"]])
async def test_an_engine_is_started_read_only(arguments: list[str], alone: CommandLine, directories: Directories) -> None:
    process = await alone.start(*arguments, "--listen", "127.0.0.1:0")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await process.stderr.readuntil(f"management on {directories.socket}, read-only.".encode())
        ended = await alone.run("rule", "create", "-n", "acme-api", "-s", "mcr.microsoft.com/dotnet/sdk", "-t", "sdk")
        assert (ended.status, "this engine is read-only" in ended.errors) == (1, True)
        process.terminate()
        await process.wait()


async def test_a_question_loads_neither_an_event_loop_nor_what_draws(entrepot: CommandLine) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, "rule", "list", "--json", env=entrepot.environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    *document, told = output.decode().splitlines()
    assert json.loads("\n".join(document))[0]["name"] == "example-library"
    status, loaded = json.loads(told)
    assert status == 0
    assert not set(loaded) & (HEAVY | {"asyncio", "httpx", "ssl", "logging"})
