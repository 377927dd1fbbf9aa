"""Completion of values, as the shells ask for it."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from entrepot.cli.completion import MAX_VALUES, _items
from entrepot.config.directories import Directories
from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.engine import Engine
from tests.cli.conftest import CommandLine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.programs import require_program
from tests.tui.conftest import dashboard, pulled
from tui.theme import theme_names


@pytest.fixture
async def filled(entrepot: CommandLine, engine: Engine, source: FakeRegistry) -> CommandLine:
    """An engine with a rule, a credential set and cached tags, and ``entrepot`` on the PATH as pip
    installs it."""
    await engine.credential_sets.create(
        CredentialSetDraft("example-login", LOGIN_SERVER, "env:U", "env:P")
    )
    for image in ("library/nginx:1.27", "library/nginx:1.28", "library/node:22"):
        name, tag = image.split(":")
        source.add_image(name, tag, layers=[b"layer"])
        await pulled(engine, image)
    return entrepot


def _installed(line: CommandLine) -> None:
    directory = line.root / "bin"
    directory.mkdir()
    script = directory / "entrepot"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom entrepot.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    line.environment["PATH"] = f"{directory}:{line.environment['PATH']}"


async def _output(line: CommandLine, *command: str | Path) -> list[str]:
    if not (line.root / "bin").exists():
        _installed(line)
    process = await asyncio.create_subprocess_exec(
        *command,
        env=line.environment,
        cwd=line.root,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert errors.decode() == ""
    return output.decode().splitlines()


async def completed(line: CommandLine, *words: str) -> list[str]:
    """What bash offers for the last of *words*, which are cut as readline cuts them, at each colon."""
    # The commands and functions of the user's own files must not matter.
    script = "\n".join(
        [
            'eval "$(_ENTREPOT_COMPLETE=bash_source entrepot)"',
            "compopt() { :; }",
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}",
            "_entrepot_completion entrepot",
            'for each in "${COMPREPLY[@]}"; do printf "%s\\n" "$each"; done',
        ]
    )
    return await _output(line, "bash", "--norc", "--noprofile", "-c", script)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["rule", "show", "--name", "ex"], ["example-library"]),
        (["rule", "delete", "-n", ""], ["example-library"]),
        (["rule", "show", "--name", "="], ["example-library"]),
        (["rule", "show", "--name", "=", "ex"], ["example-library"]),
        (["rule", "update", "--name", "example-library", "--cred-set", ""], ["example-login"]),
        (["rule", "create", "--cred-set", "example"], ["example-login"]),
        (
            ["rule", "create", "--source-repo", "registry.ex"],
            ["registry.example.com/", "registry.example.com/library/"],
        ),
        (["doctor", "--rule", ""], ["example-library"]),
        (["mirror", "c"], ["containerd", "crio"]),
        (["mirror", "k3s", "--rule", "ex"], ["example-library"]),
        (["credential-set", "check", "-n", ""], ["example-login"]),
        (["credential-set", "create", "--login-server", "registry.ex"], ["registry.example.com"]),
        (["repository", "delete", "library/n"], ["library/nginx", "library/node"]),
        (
            ["repository", "show", "library/ng"],
            ["library/nginx", "library/nginx:1.27", "library/nginx:1.28"],
        ),
        (
            ["repository", "show", "library/nginx"],
            ["library/nginx", "library/nginx:1.27", "library/nginx:1.28"],
        ),
        (["repository", "lock", "library/nginx", ":"], ["1.27", "1.28"]),
        (["repository", "show", "library/nginx", ":", "1.28"], ["1.28"]),
        (["refresh", "library/none", ":", "1"], []),
        (["pull", "library/no"], ["library/node", "library/node:22"]),
        (["pull", "lib"], ["library/nginx", "library/node", "library/"]),
        (["rule", "match", "library/nginx", ":", "1.2"], ["1.27", "1.28"]),
        (["pull", "library/nginx", ":", "1.27", "--platform", "linux/arm6"], ["linux/arm64"]),
        (["--theme", "entrepot-"], ["entrepot-dark", "entrepot-light"]),
        (["serve", "--log-format", "j"], ["json"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else "nothing",
)
async def test_bash_completes_what_the_engine_knows(
    filled: CommandLine, words: Sequence[str], offered: list[str]
) -> None:
    require_program("bash")
    assert await completed(filled, "entrepot", *words) == offered


async def test_zsh_gets_whole_words(filled: CommandLine) -> None:
    await _output(filled, "true")
    for words in ("rule show --name ex", "repository show library/nginx:1.2"):
        variables = {
            "COMP_WORDS": f"entrepot {words}",
            "COMP_CWORD": str(len(words.split())),
            "_ENTREPOT_COMPLETE": "zsh_complete",
        }
        lines = await _output(
            filled, "env", *(f"{name}={value}" for name, value in variables.items()), "entrepot"
        )
        assert lines[1::3] == (
            ["example-library"] if "rule" in words else ["library/nginx:1.27", "library/nginx:1.28"]
        )
        assert set(lines[0::3]) == {"plain"}


async def test_the_option_before_a_value_stays(filled: CommandLine) -> None:
    """zsh made ``rule show VALUE`` of ``rule show --name=VALUE``, which is refused."""
    await _output(filled, "true")
    variables = {"COMP_WORDS": "entrepot rule show --name=ex", "COMP_CWORD": "3"}
    assignments = [f"{name}={value}" for name, value in variables.items()]
    zsh = await _output(filled, "env", *assignments, "_ENTREPOT_COMPLETE=zsh_complete", "entrepot")
    assert zsh[1::3] == ["--name=example-library"]
    assignments[1] = "COMP_CWORD=--name=ex"
    fish = await _output(
        filled, "env", *assignments, "_ENTREPOT_COMPLETE=fish_complete", "entrepot"
    )
    assert fish == ["plain,--name=example-library"]


async def test_fish_completes_what_the_engine_knows(filled: CommandLine) -> None:
    require_program("fish")
    script = "_ENTREPOT_COMPLETE=fish_source entrepot | source; complete -C 'entrepot repository show library/nginx:1.2'"
    assert await _output(filled, "fish", "--no-config", "-c", script) == [
        "library/nginx:1.27",
        "library/nginx:1.28",
    ]


async def test_without_an_engine_nothing_is_offered_said_or_started(
    alone: CommandLine, directories: Directories
) -> None:
    assert await completed(alone, "entrepot", "rule", "show", "--name", "") == []
    assert await completed(alone, "entrepot", "pull", "library/") == []
    assert not directories.runtime.exists()


async def test_an_engine_elsewhere_is_not_asked(filled: CommandLine) -> None:
    """ssh may ask for a password, and takes its time."""
    assert (
        await completed(
            filled,
            "entrepot",
            "--connect",
            "ssh",
            ":",
            "//nowhere.invalid",
            "rule",
            "show",
            "--name",
            "",
        )
        == []
    )
    filled.environment["ENTREPOT_CONNECT"] = "ssh://nowhere.invalid"
    assert await completed(filled, "entrepot", "rule", "show", "--name", "") == []


async def test_an_engine_that_does_not_answer_is_left_after_a_second(
    alone: CommandLine, directories: Directories
) -> None:
    directories.runtime.mkdir(parents=True)
    waiting = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(silent, directories.socket):
        assert await completed(alone, "entrepot", "rule", "show", "--name", "") == []
        assert waiting.is_set()


def test_only_what_no_shell_could_take_for_anything_else_is_offered() -> None:
    hostile = [
        "$(reboot)",
        "a b",
        "a\nplain,b",
        "library/*",
        "\x1b[2Jx",
        "-rf",
        "a;b",
        "a'b",
        "x" * 600,
        "",
        "library/ok",
    ]
    assert [item.value for item in _items(hostile, "")] == ["library/ok"]
    assert len(_items((f"rule-{number}" for number in range(1000)), "")) == MAX_VALUES


async def test_all_themes_of_the_dashboard_are_offered(engine: Engine) -> None:
    async with dashboard(engine) as person:
        assert set(theme_names()) == set(person.app.available_themes)
