"""Every command, on a real engine over its socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from entrepot import __version__
from entrepot.api.models import ReconciliationProgress
from entrepot.config.directories import Directories
from entrepot.engine.engine import Engine
from tests.cli.conftest import PATIENCE, SET, CommandLine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.test_imports import COMMAND, HEAVY

ON_AN_ENGINE = [
    ["status"],
    ["rule", "list"],
    ["rule", "show", "--name", "example-library"],
    [
        "rule",
        "create",
        "--name",
        "other-rule",
        "--source-repo",
        "registry.example.com/a",
        "--target-repo",
        "a",
    ],
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
async def test_without_an_engine_a_command_says_how_to_start_one(
    arguments: list[str], alone: CommandLine
) -> None:
    # doctor looks at the port too, and another program may have the usual one.
    write_settings(alone, 'listen = "127.0.0.1:0"')
    result = await alone.run(*arguments)
    assert (result.status, result.output) == (3, "")
    assert (
        result.errors
        == "Error: No engine is running. Start one with: entrepot serve (EngineUnreachable)\n"
    )


def write_settings(alone: CommandLine, text: str) -> None:
    place = alone.root / "c" / "entrepot"
    place.mkdir(parents=True, exist_ok=True)
    (place / "settings.toml").write_text(f"{text}\n")


async def test_doctor_without_an_engine_names_a_port_that_is_taken(alone: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        write_settings(alone, f'listen = "{address}"')
        result = await alone.run("doctor")
    assert result.status == 3
    assert f"machine: start: The registry can't listen on {address}: Address" in result.errors


async def test_doctor_without_an_engine_reads_the_documents(alone: CommandLine) -> None:
    write_settings(alone, 'listen = "127.0.0.1:0"')
    (alone.root / "c" / "entrepot" / "rules.toml").write_text("rules = 1\n")
    result = await alone.run("doctor")
    assert (result.status, "machine: start: " in result.errors) == (3, True)
    assert "rules.toml" in result.errors


async def test_a_socket_that_nobody_listens_on_is_no_engine(
    alone: CommandLine, directories: Directories
) -> None:
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
        (
            ["rule", "update", "--name", "example"],
            "There is nothing to change: give --cred-set, --remove-cred-set, --freshness, --reader,",
        ),
        (
            ["rule", "update", "--name", "example", "--cred-set", "a", "--remove-cred-set"],
            "can't be used together",
        ),
        (
            ["credential-set", "update", "--name", "example"],
            "There is nothing to change: give --username-id, --password-id or both.",
        ),
        (
            ["credential-set", "create", "--name", "example", "--login-server", "docker.io"],
            "Missing option '--username-id'",
        ),
        (["repository", "show"], "Missing argument 'NAME[:TAG]'"),
        (
            ["repository", "show", f"library/nginx@sha256:{'0' * 64}"],
            "is named by its digest. Name a repository, or a tag of it.",
        ),
        (["repository", "lock"], "Missing argument 'NAME[:TAG]'"),
        (
            ["evict", "--to", "a lot"],
            "'a lot' is not a size. Write 50GB, 50GiB, or a number of bytes.",
        ),
        (["pull"], "Missing argument 'IMAGE'"),
        (["status", "--nonsense"], "No such option"),
        (["serve", "--log-format", "xml"], "is not one of"),
        (["rule", "delete", "--name", "example"], "Without a terminal, confirm with --yes."),
        (
            ["credential-set", "delete", "--name", "example"],
            "Without a terminal, confirm with --yes.",
        ),
        (["repository", "delete", "library/nginx"], "Without a terminal, confirm with --yes."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_wrong_usage_is_told_before_an_engine_is_asked(
    arguments: list[str], told: str, alone: CommandLine
) -> None:
    result = await alone.run(*arguments)
    assert (result.status, result.output) == (2, "")
    assert told in result.errors


async def test_help_names_every_command_in_the_order_of_need(alone: CommandLine) -> None:
    result = await alone.done("--help")
    places = [
        result.output.index(f"\n  {each} ")
        for each in (
            "demo",
            "serve",
            "status",
            "rule",
            "credential-set",
            "repository",
            "evict",
            "pull",
            "refresh",
            "doctor",
            "paths",
        )
    ]
    assert places == sorted(places)
    assert (await alone.done("-h")).output == result.output


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
    assert (
        found["version"],
        found["address"],
        found["rules"],
        found["rulesLimit"],
        found["demo"],
    ) == (__version__, engine.address, 1, 1000, False)
    told = (await entrepot.done("status")).output
    assert f"Registry         {engine.address}\n" in told
    assert "Cache rules      1 of 1,000\n" in told
    assert "Last 24 hours    nothing was pulled\n" in told


async def test_status_shows_how_far_the_comparison_with_the_disk_is(
    entrepot: CommandLine, engine: Engine
) -> None:
    await engine.maintenance.reconcile()
    assert (await entrepot.ask("status"))["reconciliation"] is None
    assert "Disk comparison" not in (await entrepot.done("status")).output
    engine.maintenance.reconciliation = ReconciliationProgress(
        started=1.0, checked=128, directories=512
    )
    assert (await entrepot.ask("status"))["reconciliation"] == {
        "started": 1.0,
        "checked": 128,
        "directories": 512,
    }
    output = (await entrepot.done("status")).output
    assert "Disk comparison  128 of 512 directories checked\n" in output


async def test_status_says_what_the_cache_did_in_the_last_day(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    for _ in range(2):
        await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    found = (await entrepot.ask("status"))["lastDay"]
    assert (found["hits"], found["misses"], found["requestsSaved"]) == (2, 2, 2)
    told = (await entrepot.done("status")).output
    assert "Last 24 hours    50% of 4 answers from the cache, 0 B served, " in told
    assert told.splitlines()[-1].endswith(" from sources, 2 requests to them saved")


async def test_what_an_administrator_should_know_goes_to_standard_error(
    entrepot: CommandLine, engine: Engine
) -> None:
    await entrepot.done("credential-set", "create", "--name", "example-set", *SET)
    await engine.credential_sets.verify("example-set")
    result = await entrepot.done("status")
    assert result.errors.startswith("! example-set is unhealthy: ")
    assert "unhealthy" not in result.output


# Refusals, and nothing at all


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (
            ["rule", "create", "-n", "abc", "-s", "registry.example.com/a", "-t", "a"],
            "InvalidResourceName",
        ),
        (
            ["rule", "create", "-n", "docker-hub", "-s", "docker.io/library/nginx", "-t", "nginx"],
            "EnforceDockerAuthentication",
        ),
        (
            ["rule", "create", "-n", "nowhere", "-s", "nowhere.example.org/a", "-t", "a"],
            "UpstreamNotSupported",
        ),
        (
            ["rule", "create", "-n", "with-tag", "-s", "registry.example.com/a:1", "-t", "a"],
            "GenericRepositoryNameInvalid",
        ),
        (
            [
                "rule",
                "create",
                "-n",
                "overlap",
                "-s",
                "registry.example.com/a/*",
                "-t",
                "library/*",
            ],
            "CacheRuleTargetOverlap",
        ),
        (
            ["rule", "create", "-n", "example-LIBRARY", "-s", "registry.example.com/a", "-t", "a"],
            "CacheRuleAlreadyExists",
        ),
        (
            [
                "rule",
                "create",
                "-n",
                "unknown-set",
                "-s",
                "registry.example.com/a",
                "-t",
                "a",
                "-c",
                "no-such-set",
            ],
            "CredentialSetNotFound",
        ),
        (["rule", "show", "-n", "no-such-rule"], "CacheRuleNotFound"),
        (["rule", "update", "-n", "no-such-rule", "--remove-cred-set"], "CacheRuleNotFound"),
        (["rule", "delete", "-n", "no-such-rule", "--yes"], "CacheRuleNotFound"),
        (
            [
                "credential-set",
                "create",
                "-n",
                "plain-text",
                "-l",
                "registry.example.com",
                "-u",
                "me",
                "-p",
                "secret",
            ],
            "SecretIdentifierInvalid",
        ),
        (
            [
                "credential-set",
                "create",
                "-n",
                "nowhere",
                "-l",
                "nowhere.example.org",
                "-u",
                "env:A",
                "-p",
                "env:B",
            ],
            "UpstreamNotSupported",
        ),
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
async def test_a_refusal_is_one_line_with_its_code(
    arguments: list[str], code: str, entrepot: CommandLine, engine: Engine
) -> None:
    before = engine.directories.rules.read_bytes()
    result = await entrepot.run(*arguments)
    assert (result.status, result.output) == (1, "")
    assert result.errors.startswith("Error: ")
    assert result.errors.count("\n") == 1
    assert result.errors.endswith(f"({code})\n"), result.errors
    assert engine.directories.rules.read_bytes() == before


async def test_empty_listings_say_what_to_do(entrepot: CommandLine) -> None:
    await entrepot.done("rule", "delete", "-n", "example-library", "-y")
    for group, told in (
        ("rule", "There is no cache rule yet."),
        ("credential-set", "There is no credential set yet."),
        ("repository", "Nothing is cached yet."),
    ):
        result = await entrepot.done(group, "list")
        assert result.output == ""
        assert result.errors.startswith(told)
        assert await entrepot.ask(group, "list") == []


# Serving


async def test_serve_runs_until_it_is_asked_to_end(
    alone: CommandLine, directories: Directories
) -> None:
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
        (
            [],
            'listen = "nonsense"\n',
            "settings.toml, line 1: 'nonsense' is not an address to listen on.",
        ),
        ([], "fresness = 3\n", "settings.toml, line 1: "),
        (
            ["--listen", "192.0.2.1:0", "--allow-plain-http", "--allow-anonymous"],
            "",
            "The registry can't listen on 192.0.2.1:0",
        ),
        (["--certificate", "none.pem"], "", "There is no key beside the certificate."),
    ],
)
async def test_serve_says_in_one_line_why_it_can_not_start(
    arguments: list[str], settings: str, told: str, alone: CommandLine, directories: Directories
) -> None:
    directories.config.mkdir(parents=True)
    directories.settings.write_text(settings)
    result = await alone.run("serve", *arguments)
    assert result.status == 1
    assert told in result.errors
    assert result.errors.startswith("Error: ")
    assert result.errors.count("\n") == 1


async def test_the_advised_command_has_what_was_on_the_command_line(
    alone: CommandLine, tmp_path: Path
) -> None:
    log = tmp_path / "the log"
    options = ("--listen", "192.0.2.1:0", "--allow-plain-http", "--log-file", str(log))
    result = await alone.run("--read-only", "serve", *options)
    assert result.status == 1
    assert (
        "\n    entrepot --read-only serve --listen 192.0.2.1:0 --allow-plain-http "
        f"--log-file '{log}' --allow-anonymous\n"
    ) in result.errors


async def test_a_runtime_directory_with_a_long_path_is_one_line(
    alone: CommandLine, tmp_path: Path
) -> None:
    result = await alone.run("serve", variables={"XDG_RUNTIME_DIR": str(tmp_path / ("long" * 30))})
    assert result.status == 1
    assert result.errors.startswith("Error: The path of the management socket is too long")


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


@pytest.mark.parametrize(
    "arguments",
    [["paths"], ["paths", "--json"], ["rule", "list"], ["rule", "show", "-n", "example-library"]],
    ids=" ".join,
)
async def test_an_output_that_takes_no_more_is_an_error_in_one_line(
    arguments: list[str], entrepot: CommandLine
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await entrepot.start(*arguments, stdout=full)
    finally:
        os.close(full)
    async with asyncio.timeout(PATIENCE):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode() == "Error: Standard output can't be written: No space left on device.\n"


async def test_the_doctor_tells_a_line_for_each_check_and_ends_with_1_when_one_fails(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    result = await entrepot.done("doctor")
    assert f"ok    {LOGIN_SERVER}: sign-in: allows anonymous access\n" in result.output
    assert "ok    this machine: data directory: " in result.output
    found = await entrepot.ask("doctor", "--rule", "example-library")
    assert {each["outcome"] for each in found} == {"ok"}
    await source.stop()
    result = await entrepot.run("doctor")
    assert result.status == 1
    assert f"FAIL  {LOGIN_SERVER}: connection: " in result.output
    assert "Check the network, or whether the registry is up" in result.output
    assert result.errors.startswith("1 check of ")


# Read-only, and fast


async def test_a_read_only_command_changes_nothing(entrepot: CommandLine, engine: Engine) -> None:
    result = await entrepot.run(
        "--read-only", "rule", "delete", "--name", "example-library", "--yes"
    )
    assert (result.status, result.output) == (1, "")
    assert result.errors == (
        "Error: Nothing was changed: this client is read-only. Start it without --read-only to change something. (EngineReadOnly)\n"
    )
    assert (await entrepot.done("--read-only", "evict", "--dry-run")).errors.startswith(
        "Nothing to evict"
    )
    assert "read-only" in (await entrepot.done("--read-only", "status")).output
    assert len(engine.documents.rules) == 1


@pytest.mark.parametrize("arguments", [["serve", "--read-only"], ["--read-only", "serve"]])
async def test_an_engine_is_started_read_only(
    arguments: list[str], alone: CommandLine, directories: Directories
) -> None:
    process = await alone.start(*arguments, "--listen", "127.0.0.1:0")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await process.stderr.readuntil(f"management on {directories.socket}, read-only.".encode())
        result = await alone.run(
            "rule", "create", "-n", "acme-api", "-s", "mcr.microsoft.com/dotnet/sdk", "-t", "sdk"
        )
        assert (result.status, "this engine is read-only" in result.errors) == (1, True)
        process.terminate()
        await process.wait()


async def test_a_question_loads_neither_an_event_loop_nor_what_draws(entrepot: CommandLine) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        "rule",
        "list",
        "--json",
        env=entrepot.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    *document, told = output.decode().splitlines()
    assert json.loads("\n".join(document))[0]["name"] == "example-library"
    status, loaded = json.loads(told)
    assert status == 0
    assert not set(loaded) & (HEAVY | {"asyncio", "httpx", "ssl", "logging"})


async def test_a_signal_does_not_kill_an_engine_that_reads_its_modules(
    alone: CommandLine, tmp_path: Path
) -> None:
    """F79: that is most of the start, and a service manager may send one as soon as it has begun."""
    lines = (
        "import os, signal, sys",
        "class Finder:",
        "    def find_spec(self, name, *_):",
        "        if name == 'entrepot.server.run':",
        "            os.kill(os.getpid(), signal.SIGUSR1)",
        "sys.meta_path.insert(0, Finder())",
    )
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    alone.environment["PYTHONPATH"] = f"{tmp_path}:{alone.environment['PYTHONPATH']}"
    result = await alone.run("serve", "--listen", "nowhere")
    assert (result.status, "nowhere" in result.errors) == (1, True)
