"""Every block of code in the README and the other pages works as it is written.

Each block is known by its first line, and `HOW` says how it is tried. A block that is missing there
fails a test, and so does one that no document has. Container clients have their blocks tried in
``tests/e2e/clients/test_readme.py``, with real daemons.
"""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from entrepot.cli.main import cli
from entrepot.config.settings import Settings
from entrepot.core.readers import ReaderAccess
from entrepot.core.rule_import import RuleRow
from entrepot.toml import convert
from tests.bench.__main__ import main as bench
from tests.documents import CHECKOUT, README, Block, block, blocks
from tests.engine.test_doctor import certificate
from tests.fakes import FakeRegistry
from tests.processes import reserved_port, tied
from tests.programs import require_program
from tui.options import read_options

SET_UP = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/entrepot"
SET_UP_TESTS = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
SET_UP_WITH_UV = "uv tool install .        # or: pipx install ."
SET_UP_FROM_WHEEL = "pip wheel --no-deps --wheel-dir dist ."
SET_UP_TO_CONTRIBUTE = "uv sync"
LINK = 'sudo ln -s "$PWD/.venv/bin/entrepot" /usr/local/bin/entrepot'
SERVE = "entrepot serve"
FIRST_RULE = "entrepot rule create --name microsoft-dotnet \\"
FIRST_PULL = "docker pull 127.0.0.1:5000/dotnet/runtime:9.0"
SECRETS = "install -m 600 /dev/null ~/hub-user && echo 'my-name' > ~/hub-user"
SIGNED_IN = "entrepot credential-set create --name hub-login --login-server docker.io \\"
OTHER_RULE = "entrepot rule create --name ecr-library \\"
CLIENTS = "docker pull 127.0.0.1:5000/library/nginx:1.27"
REGISTRIES_CONF = "[[registry]]"
HOSTS_TOML = 'server = "http://127.0.0.1:5000"'
MIRROR_HOSTS_TOML = 'server = "https://registry-1.docker.io"'
MIRROR_SETTINGS = "# Every image at this address is one of Docker Hub."
MIRROR_DAEMON_JSON = '{"registry-mirrors": ["http://127.0.0.1:5002"]}'
MIRROR_COMMANDS = (
    "entrepot mirror containerd                              "
    "# print it, and what else there is to do"
)
MIRROR_REGISTRIES_CONF = "# Ask the mirror for images of Docker Hub first."
HTPASSWD = "htpasswd -c -B -C 10 ~/.config/entrepot/readers.htpasswd alice"
READERS_SETTINGS = (
    "allow_anonymous = false      # true: who does not sign in may pull what has no readers"
)
TOKENS = "entrepot token create ci --expires 90d --group builders"
READERS_OF_RULES = (
    "entrepot rule create --name acme-private -s 'registry.example.com/acme/*' -t 'acme/*' \\"
)
READERS_IN_DOCUMENT = 'readers = ["ci", "@ops"]     # names of readers, and of groups with @'
LOGINS = "docker login -u alice 127.0.0.1:5000"
HEADERS_HOSTS_TOML = "# With a personal token."
TLS_SETTINGS = "# TLS of the registry and its mirrors."
CERTIFICATE = "entrepot certificate ~/entrepot-tls --host cache.example.com"
UNIT = "[Unit]"
ENABLE_UNIT = "systemctl --user enable --now entrepot.service"
COMPLETION = 'eval "$(_ENTREPOT_COMPLETE=bash_source entrepot)"'
ELSEWHERE = "entrepot --connect ssh://me@cache.example.com                       # the dashboard"
KEYMAP = "[keys]"
DASHBOARD = (
    'theme = "entrepot-light"     '
    "# --theme NAME: or entrepot-dark, ansi-dark, ansi-light, Textual's"
)
SETTINGS = 'listen = "127.0.0.1:5000"'
CURL = (
    'curl --unix-socket "$XDG_RUNTIME_DIR/entrepot/entrepot.sock" '
    "http://entrepot/entrepot/v1/status"
)
BENCH = (
    "python -m tests.bench            # five rounds; --rounds 2, --only crowd, or --quick for less"
)
BENCH_TABLES = (
    "python -m tests.bench --against before/bin/python --distribution registry "
    "--output speed.json \\"
)
EXPORT = "entrepot export library/nginx:1.27 /media/usb/images/"
IMPORT = "entrepot import /media/usb/images"
INVENTORY = "entrepot inventory --output /media/usb/there.jsonl"
DIFFERENCE = (
    "entrepot export --rule hub-library --missing-from /media/usb/there.jsonl /media/usb/more/"
)
FOR_DOCKER = "entrepot export library/nginx:1.27 docker-archive:nginx.tar --platform linux/amd64"
CHECKS = "ruff check . && ruff format --check ."

HOW = {
    SET_UP: "read: it takes half a minute and the network; .ci/run does the same",
    SET_UP_TESTS: "read: .ci/run does the same",
    SET_UP_WITH_UV: "read: it takes the network",
    SET_UP_FROM_WHEEL: "read: it takes the network",
    SET_UP_TO_CONTRIBUTE: "read: it takes the network",
    LINK: "run",
    SERVE: "run",
    FIRST_RULE: "run",
    FIRST_PULL: "compared with the lines for clients",
    SECRETS: "run",
    SIGNED_IN: "run",
    OTHER_RULE: "run",
    CLIENTS: "run in tests/e2e/clients/test_readme.py",
    REGISTRIES_CONF: "read by podman in tests/e2e/clients/test_readme.py",
    HOSTS_TOML: "read by containerd in tests/e2e/clients/test_readme.py",
    MIRROR_HOSTS_TOML: "read by containerd in tests/e2e/clients/test_mirrors.py",
    MIRROR_SETTINGS: "read by the engine in tests/e2e/clients/test_mirrors.py",
    MIRROR_DAEMON_JSON: "read by dockerd in tests/e2e/clients/test_mirrors.py",
    MIRROR_REGISTRIES_CONF: "read by podman and others in tests/e2e/clients/test_mirrors.py",
    MIRROR_COMMANDS: "parsed; tests/cli/test_mirror.py runs such commands",
    HTPASSWD: "read: the program is not Entrepot's",
    READERS_SETTINGS: "read by the engine",
    TOKENS: "parsed",
    READERS_OF_RULES: "parsed",
    READERS_IN_DOCUMENT: "read as a part of rules.toml",
    LOGINS: "run in tests/e2e/clients/test_readers.py",
    HEADERS_HOSTS_TOML: "read by containerd in tests/e2e/clients/test_readers.py",
    TLS_SETTINGS: "read by the engine",
    CERTIFICATE: "run",
    UNIT: "verified by systemd",
    ENABLE_UNIT: "run with programs that only record how they are called",
    COMPLETION: "run",
    ELSEWHERE: "parsed; the command that needs no terminal is run with an ssh that only records",
    KEYMAP: "read by entrepot keys --check",
    DASHBOARD: "read by the dashboard",
    SETTINGS: "read by the engine",
    "[management]": "read by the engine",
    CURL: "run",
    BENCH: "parsed: it takes a quarter of an hour",
    BENCH_TABLES: "parsed: it takes half an hour",
    CHECKS: "compared with .ci/run",
    EXPORT: "run in tests/cli/test_transfer.py",
    IMPORT: "run in tests/cli/test_transfer.py",
    INVENTORY: "run in tests/cli/test_transfer.py",
    DIFFERENCE: "run in tests/cli/test_transfer.py",
    FOR_DOCKER: "run in tests/cli/test_transfer.py; docker and skopeo in tests/e2e/clients",
}
"""How each block is tried, by its first line."""

RUN = """#!{python}
import sys
from entrepot.cli import main
sys.exit(main())
"""
"""``entrepot`` as pip installs it."""

RECORDS = """#!/bin/sh
echo "${{0##*/}} $*" >> {log}
{then}
"""


def test_every_block_of_every_document_is_tried() -> None:
    firsts = {block.first: block.place for block in blocks() if block.language != "text"}
    assert {place: first for first, place in firsts.items() if first not in HOW} == {}
    assert set(HOW) - set(firsts) == set()


def test_every_block_says_what_it_is_written_in() -> None:
    # A drawing is text.
    languages = {"sh", "toml", "json", "ini", "text"}
    assert [block.place for block in blocks() if block.language not in languages] == []


@pytest.mark.parametrize(
    "example",
    [block for block in blocks() if block.language == "sh"],
    ids=lambda block: block.place,
)
def test_every_block_for_a_shell_can_be_parsed_by_bash(example: Block) -> None:
    result = subprocess.run(
        [require_program("bash"), "-n", "-c", example.text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_commands_of_the_set_up_name_what_there_is() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    for first in (SET_UP, SET_UP_TESTS):
        assert block(first).text.count("\n") == 1
        extras = set(re.findall(r"\.\[(\w+)\]", first))
        assert extras <= set(project["project"]["optional-dependencies"])
        make, install, run = first.split(" && ")
        assert make == "python3 -m venv .venv"
        assert install.startswith(".venv/bin/pip install ")
        assert run in {".venv/bin/entrepot", ".venv/bin/pytest"}
    # What uv sync installs besides the project itself.
    assert project["dependency-groups"] == {"dev": ["entrepot[test,dev]"]}


def test_each_installer_is_given_the_clone_or_the_wheel_that_was_built() -> None:
    assert re.findall(
        r"(uv tool|pipx) install (\S+)$", SET_UP_WITH_UV.replace("  ", "\n"), re.M
    ) == [
        ("uv tool", "."),
        ("pipx", "."),
    ]
    build, install = block(SET_UP_FROM_WHEEL).text.splitlines()
    directory = shlex.split(build)[shlex.split(build).index("--wheel-dir") + 1]
    wheels = re.findall(r"(?:uv tool|pipx) install (\S+)", install)
    assert wheels == [f"{directory}/entrepot-*.whl"] * 2


def test_the_page_for_contributors_lists_the_required_checks() -> None:
    checks = [check for line in block(CHECKS).text.splitlines() for check in line.split(" && ")]
    # Of a check that runs in the background, the command.
    ci = [line.removesuffix(" &") for line in (CHECKOUT / ".ci/run").read_text().splitlines()]
    assert [
        check for check in checks if check in ci or f"ENTREPOT_REQUIRE_PROGRAMS=1 {check}" in ci
    ] == checks


# Documents in TOML, JSON and INI


def test_the_settings_are_what_the_engine_takes(tmp_path: Path) -> None:
    examples = [
        block
        for block in blocks()
        if block.language == "toml" and block.first in {SETTINGS, TLS_SETTINGS, "[management]"}
    ]
    assert len(examples) == 4
    for name in ("cache.pem", "cache-key.pem"):
        (tmp_path / name).touch(mode=0o600)
        certificate(tmp_path / name, days=30)
    (tmp_path / "cache-key.pem").write_bytes((tmp_path / "cache.pem").read_bytes())
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(example.text)
        Settings.load(path)


def test_the_dashboard_s_own_file_is_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "dashboard.toml").write_text(block(DASHBOARD).text)
    options = read_options(tmp_path / "dashboard.toml", tmp_path / "kept.toml")
    assert (options.problems, options.theme, options.ascii, options.mouse, options.read_only) == (
        (),
        "entrepot-light",
        True,
        False,
        True,
    )


def test_the_keymap_is_what_keys_check_takes(tmp_path: Path) -> None:
    """It was refused: its ``j`` is the key of another command."""
    (tmp_path / "entrepot").mkdir()
    (tmp_path / "entrepot/keymap.toml").write_text(block(KEYMAP).text)
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "entrepot", "keys", "--check"]
    result = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "All keys of keymap.toml can be used.\n")


def test_the_configurations_of_the_clients_can_be_parsed() -> None:
    assert tomllib.loads(block(REGISTRIES_CONF).text) == {
        "registry": [{"location": "127.0.0.1:5000", "insecure": True}]
    }
    assert tomllib.loads(block(HOSTS_TOML).text) == {"server": "http://127.0.0.1:5000"}
    assert json.loads(block(MIRROR_DAEMON_JSON).text) == {
        "registry-mirrors": ["http://127.0.0.1:5002"]
    }


def test_the_settings_and_the_rules_of_readers_are_read(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(block(READERS_SETTINGS).text)
    settings = Settings.load(tmp_path / "settings.toml")
    assert settings.readers is not None
    assert settings.readers.groups == {"ops": ("alice", "bob")}
    # The source registry of the rule has to be known.
    assert [each.login_server for each in settings.upstreams] == ["registry.example.com"]
    row = convert(
        {
            "name": "acme-private",
            "source_repository": "registry.example.com/acme/*",
            "target_repository": "acme/*",
            **tomllib.loads(block(READERS_IN_DOCUMENT).text),
        },
        RuleRow,
    )
    assert row.draft.access == ReaderAccess(("ci", "@ops"), anonymous=True)


@pytest.mark.parametrize("first", [TOKENS, READERS_OF_RULES])
def test_the_commands_about_readers_can_be_parsed(first: str) -> None:
    for line in block(first).text.replace("\\\n", " ").splitlines():
        _, *arguments = shlex.split(line)
        command, own_arguments = _command(arguments)
        command.make_context(str(command.name), own_arguments)


def test_the_unit_starts_what_the_set_up_has_linked() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block(UNIT).text)
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program == shlex.split(LINK)[-1]
    assert arguments == ["serve"]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    verify = require_program("systemd-analyze")
    path = tmp_path / "entrepot.service"
    # The program of the unit has to be there.
    path.write_text(block(UNIT).text.replace("/usr/local/bin/entrepot", "/bin/true"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    result = subprocess.run(
        [verify, "--user", "verify", path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


# Commands


def _command(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line is for, and its own arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group) and arguments:
        context = command.make_context(str(command.name), list(arguments), resilient_parsing=True)
        _, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        if not arguments:
            break
        command = command.commands[arguments[0]]
        arguments = arguments[1:]
    return command, arguments


@pytest.mark.parametrize(
    "line", block(ELSEWHERE).text.splitlines(), ids=lambda line: line.split("#")[0].strip()
)
def test_commands_for_an_engine_elsewhere_can_be_typed(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "entrepot"
    command, own_arguments = _command(arguments)
    if command is not cli:
        command.make_context(str(command.name), own_arguments)


def test_the_readme_pulls_as_the_page_for_clients_says() -> None:
    lines = [line for line in block(CLIENTS).text.splitlines() if line[:6] in {"docker", "podman"}]
    pulls = block(FIRST_PULL).text.replace("dotnet/runtime:9.0", "library/nginx:1.27")
    assert pulls.splitlines() == lines


def test_the_options_of_the_benchmark_are_those_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [block(BENCH).text, block(BENCH_TABLES).text]
    monkeypatch.chdir(tmp_path)
    for name in (
        "before/bin/python",
        "registry",
        "speed.json",
        "growth.json",
        "docs/benchmarks.md",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o755)
    for options in (["--rounds", "2"], ["--only", "crowd"], ["--quick"]):
        assert " ".join(options) in texts[0]
        bench.make_context("bench", options)
    for line in texts[1].replace("\\\n", " ").splitlines():
        _, _, *options = line.split()
        bench.make_context("bench", options[1:])


class Sandbox:
    """A home and a clone of a newcomer, with the programs that would change this machine replaced
    by ones that record how they are called."""

    def __init__(self, root: Path, port: int) -> None:
        self.clone, self.home, self.bin, self.log = (
            root / "clone",
            root / "home",
            root / "bin",
            root / "calls",
        )
        self.address = f"127.0.0.1:{port}"
        for directory in (self.clone / ".venv/bin", self.home, self.bin, root / "run"):
            directory.mkdir(parents=True)
        _program(self.clone / ".venv/bin/entrepot", RUN.format(python=sys.executable))
        for name, then in {
            "sudo": 'exec "$@"',
            "systemctl": "",
            "loginctl": "",
            "journalctl": "",
            "ssh": "exit 255",
        }.items():
            _program(self.bin / name, RECORDS.format(log=self.log, then=then))
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "USER": "ann",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(root / "run"),
            "PYTHONPATH": str(CHECKOUT),
        }

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    async def start(self, text: str) -> asyncio.subprocess.Process:
        text = text.replace("/usr/local/bin", str(self.bin)).replace("127.0.0.1:5000", self.address)
        return await asyncio.create_subprocess_exec(
            *tied(["bash", "-euo", "pipefail", "-c", text]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment,
            cwd=self.clone,
        )

    async def run(self, text: str, *, typed: str = "", status: int = 0) -> str:
        """Run a block to its end."""
        process = await self.start(text)
        async with asyncio.timeout(60):
            output, _ = await process.communicate(typed.encode())
        assert process.returncode == status, output.decode()
        return output.decode()


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory, source: FakeRegistry) -> Sandbox:
    """It has the source registries of the pages, which are one fake."""
    sandbox = Sandbox(tmp_path_factory.mktemp("n"), reserved_port())
    config = sandbox.home / ".config/entrepot"
    config.mkdir(parents=True)
    endpoints = "".join(
        f'[upstreams."{name}"]\nendpoint = "{source.url}"\n'
        for name in ("mcr.microsoft.com", "docker.io", "public.ecr.aws")
    )
    (config / "settings.toml").write_text(f'listen = "{sandbox.address}"\n{endpoints}')
    source.add_image("dotnet/runtime", "9.0", layers=[b"layer"])
    return sandbox


async def test_a_newcomer_who_follows_the_readme_gets_where_it_says(sandbox: Sandbox) -> None:
    """From the link in the PATH to a credential set that works, in the order of the README; then
    what the other pages let a user type."""
    require_program("bash")
    require_program("curl")
    readme = [block.first for block in blocks() if block.document == README]
    order = [SET_UP, LINK, SERVE, FIRST_RULE, FIRST_PULL, SECRETS, SIGNED_IN, SET_UP_TESTS]
    assert readme == order

    await sandbox.run(block(LINK).text)
    assert (sandbox.bin / "entrepot").readlink() == sandbox.clone / ".venv/bin/entrepot"
    serving = await sandbox.start(f"exec {block(SERVE).text}")
    try:
        assert serving.stdout is not None
        async with asyncio.timeout(60):
            await serving.stdout.readuntil(f"{sandbox.address}".encode())
            while (
                b"No engine is running"
                in (await sandbox.run("entrepot status 2>&1 || true")).encode()
            ):
                pass
        assert "dotnet/runtime:9.0" in await sandbox.run(block(FIRST_RULE).text)
        repositories = json.loads(await sandbox.run("entrepot repository list --json"))
        assert [repository["name"] for repository in repositories] == ["dotnet/runtime"]
        await sandbox.run(block(SECRETS).text, typed="dckr_pat_secret\n")
        for name, content in (("hub-user", "my-name\n"), ("hub-token", "dckr_pat_secret\n")):
            assert (sandbox.home / name).read_text() == content
            assert stat.S_IMODE((sandbox.home / name).stat().st_mode) == 0o600
        signed_in = await sandbox.run(block(SIGNED_IN).text)
        assert re.search(r"^Health +healthy$", signed_in, re.MULTILINE)
        await sandbox.run(block(OTHER_RULE).text)
        rules = json.loads(await sandbox.run("entrepot rule list --json"))
        assert [rule["name"] for rule in rules] == [
            "ecr-library",
            "hub-library",
            "microsoft-dotnet",
        ]
        await sandbox.run(block(ENABLE_UNIT).text)
        assert sandbox.calls[-4:] == [
            "systemctl --user enable --now entrepot.service",
            "sudo loginctl enable-linger ann",
            "loginctl enable-linger ann",
            "journalctl --user --unit entrepot.service",
        ]
        assert "_entrepot_completion" in await sandbox.run(
            f"{block(COMPLETION).text}complete -p entrepot"
        )
        assert 'certificate = "' in await sandbox.run(block(CERTIFICATE).text)
        [status] = re.findall(r"^\{.*\}$", await sandbox.run(block(CURL).text), re.MULTILINE)
        assert json.loads(status)["repositories"] == 1
        await sandbox.run(block(ELSEWHERE).text.splitlines()[1], status=1)
        assert re.fullmatch(r"ssh .*-p 2222 .*cache\.example\.com.*", sandbox.calls[-1])
    finally:
        serving.terminate()
        async with asyncio.timeout(60):
            await serving.communicate()
