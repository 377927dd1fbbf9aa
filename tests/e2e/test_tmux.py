"""The dashboard in a real terminal: tmux types, and reads the screen."""

from __future__ import annotations

import base64
import os
import pty
import re
import select
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cli.secure_shell import FarMachine
from tests.e2e.clients.processes import Process
from tests.processes import tied
from tests.programs import require_program

PATIENCE = 60.0
"""Seconds after which a screen that does not come is a failure."""


class Terminal:
    """A terminal of 80 columns and 24 lines, with a shell in it."""

    def __init__(self, tmux: Path, folder: Path) -> None:
        self._tmux = tmux
        self._socket = folder / "tmux"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(folder),
            **{
                f"XDG_{name}": str(folder / name.lower())
                for name in ("CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR", "STATE_HOME")
            },
        }
        # In the background, where tmux puts it by itself, it would outlive a test that is killed.
        self._server = subprocess.Popen(
            tied([tmux, "-S", self._socket, "-f", "/dev/null", "-D"]), start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE
            while not self._listens():
                assert self._server.poll() is None, "tmux does not start."
                assert time.monotonic() < until, "tmux does not listen."
            self._run(
                "new-session",
                "-d",
                "-s",
                "t",
                "-x",
                "80",
                "-y",
                "24",
                "env",
                "-i",
                *(f"{k}={v}" for k, v in environment.items()),
                "sh",
            )
        except BaseException:
            self.close()
            raise

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def _run(self, *arguments: str) -> str:
        completed = subprocess.run(
            [self._tmux, "-S", self._socket, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return completed.stdout

    def run(self, *command: str) -> None:
        self.keys(shlex.join(command), "Enter")

    def keys(self, *keys: str) -> None:
        self._run("send-keys", "-t", "t", *keys)

    def paste(self, text: str) -> None:
        """Without brackets, as a terminal does that has none; tmux sends a carriage return for each
        line end."""
        self._run("set-buffer", "--", text)
        self._run("paste-buffer", "-t", "t")

    def resize(self, columns: int, lines: int) -> None:
        self._run("resize-window", "-t", "t", "-x", str(columns), "-y", str(lines))

    def seen(self) -> str:
        # -J: a line that the edge of the terminal broke in two is one line again.
        return self._run("capture-pane", "-t", "t", "-p", "-J")

    def sees(self, *texts: str, not_any_more: str | None = None) -> None:
        """Wait until all of *texts* stand on the screen."""
        until = time.monotonic() + PATIENCE
        while True:
            screen = self.seen()
            flat = " ".join(screen.split())
            if all(" ".join(text.split()) in flat for text in texts) and (
                not_any_more is None or not_any_more not in flat
            ):
                return
            assert time.monotonic() < until, f"{texts} never came:\n{screen}"

    def confirm(self) -> None:
        """Enter, which behind another key at the speed of a program is no decision, and behind a
        cursor key is one (F66)."""
        self.keys("Right", "Enter")

    def enters(self, text: str) -> None:
        """Wait until the cursor is in the field that shows *text*."""
        until = time.monotonic() + PATIENCE
        while True:
            line = int(self._run("display-message", "-t", "t", "-p", "#{cursor_y}"))
            screen = self.seen()
            if text in screen.split("\n")[line]:
                return
            assert time.monotonic() < until, (
                f"the cursor never came to {text} in line {line}:\n{screen}"
            )

    def modes(self) -> str:
        """Whether it is in the alternate screen, hides its cursor, or reports the mouse."""
        return self._run(
            "display-message", "-t", "t", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"
        ).strip()

    def set(self, option: str, value: str) -> None:
        self._run("set-option", "-g", option, value)

    def clipboard(self) -> str:
        """What tmux itself would paste."""
        completed = subprocess.run(
            [self._tmux, "-S", self._socket, "show-buffer"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return completed.stdout

    @contextmanager
    def watched(self) -> Iterator[Callable[[], str]]:
        """A terminal around it; gives a function that waits for what
        comes into the clipboard of that."""
        keyboard, terminal = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        command: list[str | Path] = [self._tmux, "-S", self._socket, "attach-session", "-t", "t"]
        watching = subprocess.Popen(
            tied(command),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            start_new_session=True,
        )
        os.close(terminal)
        output = bytearray()

        def copied() -> str:
            until = time.monotonic() + PATIENCE
            while (
                match := re.search(rb"\x1b\]52;[^;]*;([A-Za-z0-9+/=]+)(\x07|\x1b\\)", output)
            ) is None:
                assert time.monotonic() < until, f"nothing was copied: {bytes(output)!r}"
                if select.select([keyboard], [], [], 1.0)[0]:
                    output.extend(os.read(keyboard, 65536))
            return base64.b64decode(match[1]).decode()

        try:
            yield copied
        finally:
            watching.kill()
            watching.wait()
            os.close(keyboard)

    def close(self) -> None:
        """Take the terminal away from all that runs in it."""
        subprocess.run(
            [self._tmux, "-S", self._socket, "kill-server"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        self._server.kill()
        self._server.wait()


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    tmux = require_program("tmux")
    # The path of a Unix socket has to be short.
    folder = tmp_path_factory.mktemp("t", numbered=True)
    with closing(Terminal(tmux, folder)) as terminal:
        yield terminal


ENTREPOT = (sys.executable, "-m", "entrepot")


def test_the_demo_from_a_new_rule_to_a_pulled_image(terminal: Terminal) -> None:
    terminal.run(*ENTREPOT, "demo")
    terminal.sees("entrepot DEMO 127.0.0.1:", "Nothing is being pulled.", "Healthy")
    terminal.keys("n")
    terminal.sees("Which source registry does it pull from?", "> Docker Hub")
    terminal.keys("Enter")
    terminal.sees("Which repository of Docker Hub?")
    terminal.keys("-l", "nginx")
    terminal.sees("Source valid: docker.io/library/nginx", "library/ was put in front")
    terminal.keys("Enter")
    terminal.sees("Where does it appear here?", "Target available:")
    terminal.keys("C-u")
    terminal.sees("Where does it appear here?", not_any_more="Target available:")
    terminal.keys("-l", "web/nginx")
    terminal.sees("/web/nginx comes from docker.io/library/nginx")
    terminal.keys("Enter")
    terminal.sees("Without credentials all pulls fail", "> hub-login")
    terminal.keys("Enter")
    terminal.sees("How long is a tag trusted", "> the default")
    terminal.keys("Enter")
    terminal.sees("Name available", "--cred-set hub-login")
    terminal.confirm()
    terminal.sees("The cache rule docker-io-library-nginx is created.", "web/nginx:latest")
    terminal.keys("C-u")
    terminal.sees(
        "The cache rule docker-io-library-nginx is created.", not_any_more="web/nginx:latest"
    )
    terminal.keys("-l", "web/nginx:1.27")
    terminal.sees("web/nginx:1.27")
    terminal.confirm()
    terminal.enters("linux/amd64")
    terminal.confirm()
    terminal.sees("Pulls", "web/nginx:1.27", "MB/s")
    terminal.sees("web/nginx:1.27", "completed")
    terminal.keys("4")
    terminal.sees("Cached repositories", "web/nginx", "docker.io/library/nginx")
    terminal.keys("q")
    terminal.sees("The demo has ended, and all of it is removed.")
    assert terminal.modes() == "0 1 0"


def test_a_first_start_starts_an_engine_and_quitting_can_stop_it(terminal: Terminal) -> None:
    terminal.run(*ENTREPOT, "serve", "--listen", "127.0.0.1:0")
    terminal.sees("answers container clients on 127.0.0.1:")
    terminal.keys("C-c")
    terminal.sees("Stopping.")
    terminal.run(
        "sh",
        "-c",
        "cd; mkdir -p config_home/entrepot; "
        "printf 'listen = \"127.0.0.1:0\"\\n' > config_home/entrepot/settings.toml; clear",
    )
    terminal.run(*ENTREPOT)
    terminal.sees("Get started", "0 of 1,000 rules")
    terminal.keys("q")
    terminal.sees("The engine was started for this dashboard.")
    terminal.keys("Right", "Right", "Enter")
    terminal.sees("The engine is stopped.")
    terminal.run(*ENTREPOT, "status")
    terminal.sees("No engine is running.")


def test_a_newcomer_pulls_an_image_of_the_demo_without_typing_a_name(
    terminal: Terminal,
) -> None:
    """Newcomer: the demo opened empty, and the names of its images had to be guessed."""
    terminal.run(*ENTREPOT, "demo")
    terminal.sees(
        "entrepot DEMO",
        "This demo's source has library/nginx:1.27, ",
        "Press p, then enter twice, to pull the first.",
    )
    terminal.keys("5")
    terminal.sees(
        "Nothing has been pulled yet.",
        "This demo's source has library/nginx:1.27, library/postgres:17,",
    )
    terminal.keys("p")
    terminal.sees(
        "Pull an image into the cache", "hub-library gets it from docker.io/library/nginx"
    )
    terminal.keys("Enter")
    terminal.enters("that of the engine's machine")
    terminal.confirm()
    terminal.sees("Pulls", "library/nginx:1.27", "MB/s")
    terminal.keys("p")
    terminal.sees("Pull an image into the cache", "library/postgres:17")
    terminal.keys("-l", "library/alpine:3.21")
    terminal.sees("hub-library gets it from docker.io/library/alpine", not_any_more="postgres")
    terminal.keys("Enter")
    terminal.enters("that of the engine's machine")
    terminal.confirm()
    terminal.sees("Pulls", "library/alpine:3.21", "completed", not_any_more="MB/s")
    terminal.keys("q")
    terminal.sees("The demo has ended")


def test_text_for_another_pane_stops_no_engine_and_deletes_no_rule(
    terminal: Terminal,
) -> None:
    """F66, with a real rule and a real engine."""
    terminal.run(
        "sh",
        "-c",
        "cd; mkdir -p config_home/entrepot; "
        "printf 'listen = \"127.0.0.1:0\"\\n' > config_home/entrepot/settings.toml; clear",
    )
    terminal.run(*ENTREPOT)
    terminal.sees("Get started", "0 of 1,000 rules")
    terminal.keys("2", "n")
    terminal.sees("Which source registry does it pull from?", "> Docker Hub")
    terminal.keys("End", "Up")
    terminal.keys("C-c")
    terminal.sees("There is no cache rule yet.")
    terminal.paste("docker.io/library/nginx:1.27\n")
    terminal.sees("29 characters arrived at once")
    terminal.paste("for each in *; do\n\tdocker rmi $each\n\tdone\nqs\n")
    terminal.keys("-l", "docker stop; quit")
    terminal.sees("q quit", not_any_more="arrived at once")
    terminal.paste("q s\n")
    terminal.sees("The engine was started for this dashboard.")
    terminal.keys("Escape")
    terminal.sees("q quit", not_any_more="Quit the dashboard?")
    terminal.keys("q")
    terminal.sees("Quit the dashboard?")
    terminal.keys("-l", "s")
    terminal.keys("-l", "y")
    terminal.keys("Right", "Right")
    # Now the cursor is where enter stops the engine: a letter takes it away from there, and an
    # enter that comes at once behind it is none.
    terminal.keys("-l", "s")
    terminal.keys("Enter")
    terminal.keys("Escape")
    terminal.sees("q quit", not_any_more="Quit the dashboard?")
    terminal.keys("q")
    terminal.sees("Quit the dashboard?")
    terminal.keys("Right", "Right", "Enter")
    terminal.sees("The engine is stopped.")


def test_a_suspended_dashboard_comes_back_whole(terminal: Terminal) -> None:
    terminal.run(*ENTREPOT, "demo")
    terminal.sees("entrepot DEMO", "Healthy")
    terminal.keys("C-z")
    terminal.sees("Stopped")
    terminal.run("fg")
    terminal.sees("entrepot DEMO", "Healthy", "q quit")
    terminal.keys("q")
    terminal.sees("The demo has ended")


def test_a_terminal_that_is_too_small_says_so_and_recovers(terminal: Terminal) -> None:
    terminal.run(*ENTREPOT, "demo")
    terminal.sees("entrepot DEMO", "Healthy")
    terminal.resize(50, 12)
    terminal.sees("This terminal is too small.")
    terminal.resize(100, 30)
    terminal.sees("entrepot DEMO", "2 Rules", not_any_more="too small")
    terminal.keys("q")
    terminal.sees("The demo has ended")


@pytest.mark.parametrize("way", ["set-clipboard on", "allow-passthrough on"])
def test_what_is_copied_in_tmux_reaches_the_clipboard_of_the_terminal_around_it(
    terminal: Terminal, way: str
) -> None:
    terminal.set(*way.split())
    terminal.run("export", "TMUX=here")
    with terminal.watched() as copied:
        terminal.run(*ENTREPOT, "demo")
        terminal.sees("entrepot DEMO", "Healthy")
        terminal.keys("7")
        terminal.sees("Events", "> ")
        terminal.keys("G", "y")
        terminal.sees("Sent to the terminal's clipboard:")
        text = copied()
    assert text
    assert text in " ".join(terminal.seen().split())
    assert terminal.clipboard() == (text if way == "set-clipboard on" else "")
    terminal.keys("q")
    terminal.sees("The demo has ended")


# On another machine


@pytest.fixture
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarMachine]:
    """A machine with an engine, to which the shell in the terminal knows a way."""
    root = tmp_path_factory.mktemp("f")
    there = {
        f"XDG_{name}": str(root / name.lower())
        for name in ("CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR", "STATE_HOME")
    }
    machine = FarMachine(root, there)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **there,
    }
    with closing(machine):
        engine, _ = Process.until(
            "answers container clients on",
            [*ENTREPOT, "serve", "--listen", "127.0.0.1:0"],
            environment=environment,
        )
        try:
            yield machine
        finally:
            engine.stop()


def test_a_dashboard_over_ssh_lets_ssh_ask_and_outlives_a_lost_connection(
    terminal: Terminal, far: FarMachine
) -> None:
    terminal.run("export", f"PATH={far.programs}:{os.environ['PATH']}")
    terminal.run(*ENTREPOT, "--connect", "ssh://far-and-unknown", "--read-only")
    terminal.sees("Are you sure you want to continue connecting")
    terminal.keys("-l", "yes")
    terminal.keys("Enter")
    terminal.sees("Get started", "0 of 1,000 rules")
    (far.root / "key").rename(far.root / "hidden")
    far.cut()
    terminal.sees("no answer from the engine since")
    (far.root / "hidden").rename(far.root / "key")
    terminal.sees("The engine answers again.")
    terminal.keys("q")
    terminal.sees("continue connecting (yes/no", not_any_more="Get started")
    assert terminal.modes() == "0 1 0"
    terminal.run(*ENTREPOT, "--connect", "ssh://far-and-unknown", "--read-only")
    terminal.sees("Get started", "0 of 1,000 rules")
    terminal.close()
    until = time.monotonic() + PATIENCE
    while far.connections():
        assert time.monotonic() < until, "The connection of a lost terminal stays open."
