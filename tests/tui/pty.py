"""The real program on a pseudo-terminal: what it sends is counted, and drawn on a screen of its own
that knows just the sequences which the dashboard uses."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.processes import tied

PATIENCE = 60.0
"""Seconds after which something that does not come is a failure."""

_SEQUENCE = re.compile(
    r"\x1b\[(?P<csi>[0-?]*)(?P<intermediate>[ -/]*)(?P<final>[@-~])"
    r"|\x1b\](?P<osc>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1bP[^\x1b]*(?:\x1b\x1b[^\x1b]*)*\x1b\\|\x1b[=>78c]"
)


class Picture:
    """What a terminal shows of what was sent to it. It stops at an unknown sequence."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.lines = lines
        self.modes = {"7", "25"}
        self.frames = 0
        self.styles: set[str] = set()
        """All parameters of SGR sequences that were sent."""
        self.clipboard: list[str] = []
        self._rest = ""
        self._clear()

    def _clear(self) -> None:
        self._cells = [[(" ", "")] * self.columns for _ in range(self.lines)]
        self._line = self._column = 0
        self._style = ""

    def resize(self, columns: int, lines: int) -> None:
        """Terminals keep what they can; this one keeps nothing, so that all must be sent again."""
        self.columns, self.lines = columns, lines
        self._clear()

    def feed(self, text: str) -> None:
        text = self._rest + text
        self._rest = ""
        place = 0
        while place < len(text):
            begin = text.find("\x1b", place)
            self._write(text[place : begin if begin >= 0 else len(text)])
            if begin < 0:
                return
            match = _SEQUENCE.match(text, begin)
            if match is None:
                self._rest = text[begin:]
                assert len(self._rest) < 200_000, f"no sequence: {self._rest[:40]!r}"
                return
            self._obey(match)
            place = match.end()

    def _write(self, text: str) -> None:
        for sign in text:
            if sign == "\n":
                self._line += 1
            elif sign == "\r":
                self._column = 0
            elif sign >= " ":
                if self._column >= self.columns and "7" in self.modes:
                    self._line, self._column = self._line + 1, 0
                if self._line >= self.lines:
                    self._cells = [*self._cells[1:], [(" ", "")] * self.columns]
                    self._line = self.lines - 1
                if self._column < self.columns:
                    self._cells[self._line][self._column] = (sign, self._style)
                self._column += 1

    def _obey(self, found: re.Match[str]) -> None:
        values, final = found["csi"], found["final"]
        if found["osc"] is not None:
            if found["osc"].startswith("52;"):
                self.clipboard.append(found["osc"].rpartition(";")[2])
        elif final == "H":
            line, _, column = values.partition(";")
            self._line, self._column = int(line or 1) - 1, int(column or 1) - 1
        elif final == "m":
            self.styles.add(values)
            self._style = _styled(self._style, values)
        elif final in "hl" and values.startswith("?"):
            for mode in values[1:].split(";"):
                self.frames += mode == "2026" and final == "h"
                if mode == "1049":
                    self._clear()
                (self.modes.add if final == "h" else self.modes.discard)(mode)
        elif final == "J":
            self._clear()
        elif final is not None:
            assert final in "upqcnK", f"a sequence that this terminal does not know: {found[0]!r}"

    def text(self) -> str:
        return "\n".join("".join(sign for sign, _ in line).rstrip() for line in self._cells)

    def looks(self) -> list[list[tuple[str, str]]]:
        """Every cell: its sign, and its style."""
        return [line[:] for line in self._cells]


def _styled(before: str, told: str) -> str:
    """A style after a further SGR sequence, as sorted words: the colour of the ink, that of the
    paper, and other attributes."""
    style = dict(each.split("=") for each in before.split())
    numbers = (told or "0").split(";")
    while numbers:
        number = int(numbers.pop(0) or 0)
        colour = [str(number)]
        if number in {38, 48}:
            colour += [numbers.pop(0) for _ in range(4 if numbers[0] == "2" else 2)]
        if number == 0:
            style = {}
        elif number in {39, 49}:
            style.pop("ink" if number == 39 else "paper", None)
        elif 30 <= number <= 38 or 90 <= number <= 97:
            style["ink"] = ";".join(colour)
        elif 40 <= number <= 48 or 100 <= number <= 107:
            style["paper"] = ";".join(colour)
        else:
            style[str(number)] = "on"
    return " ".join(sorted(f"{key}={value}" for key, value in style.items()))


class Program:
    """A program on a terminal of its own, which it has until `close`."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        columns: int = 80,
        lines: int = 24,
        folder: Path | None = None,
        synchronised: bool = True,
        answers: bool = True,
        reported: tuple[int, int] | None = None,
    ) -> None:
        """It *answers* whether it is well (DSR), as terminals do. *reported* are the columns and
        lines that it says it has, where those are others."""
        self.started = time.monotonic()
        self._synchronised = synchronised
        self.answers = answers
        self._keyboard, terminal = os.openpty()
        self._terminal = os.ttyname(terminal)
        self._taken_away, self._take_away = os.pipe()
        shown_columns, shown_lines = reported or (columns, lines)
        termios.tcsetwinsize(terminal, (shown_lines, shown_columns))

        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            tied(command),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={"TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
            cwd=folder,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(terminal)
        self.picture = Picture(columns, lines)
        self.sent = b""
        self.times: list[tuple[float, int]] = []
        """When something was sent, and how much had been sent with it."""
        self._changed = threading.Condition()
        self._ended = False
        self._fault: BaseException | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        undecoded = b""
        while True:
            # A read that waits would keep the terminal there when it is taken away.
            ready, _, _ = select.select([self._keyboard, self._taken_away], [], [])
            if self._taken_away in ready:
                return
            try:
                data = os.read(self._keyboard, 65536)
            except OSError:  # Linux gives EIO once the other end is closed.
                data = b""
            with self._changed:
                self.sent += data
                self.times.append((time.monotonic(), len(self.sent)))
                undecoded += data
                try:
                    text, undecoded = undecoded.decode(), b""
                except UnicodeDecodeError as error:
                    text, undecoded = undecoded[: error.start].decode(), undecoded[error.start :]
                try:
                    self.picture.feed(text)
                except AssertionError as fault:
                    self._fault = fault
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return
            if self._synchronised and b"\x1b[?2026$p" in data:
                os.write(self._keyboard, b"\x1b[?2026;2$y")
            if self.answers:
                os.write(self._keyboard, b"\x1b[0n" * data.count(b"\x1b[5n"))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not condition():
                if self._fault is not None:
                    raise self._fault
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._ended:
                    raise AssertionError(f"{what} never came:\n{self.picture.text()}")
                self._changed.wait(min(remaining, 1.0))

    def sees(self, *texts: str, gone: str | None = None) -> None:
        """Wait until all of *texts* stand on the screen, perhaps broken into lines, and *gone* does
        not."""

        def there() -> bool:
            flat = " ".join(self.picture.text().split())
            return all(" ".join(text.split()) in flat for text in texts) and (
                gone is None or gone not in flat
            )

        self.until(there, f"{texts}{f' without {gone}' if gone else ''}")

    def type(self, keys: str) -> None:
        """Send keys as a terminal does."""
        self.send(keys.encode())

    def send(self, data: bytes) -> None:
        """Send bytes that need not be text, in one piece."""
        os.write(self._keyboard, data)

    def keys_read(self) -> None:
        """Wait until the program has read all that was typed."""
        deadline = time.monotonic() + PATIENCE
        terminal = os.open(self._terminal, os.O_RDONLY | os.O_NOCTTY)
        try:
            while int.from_bytes(fcntl.ioctl(terminal, termios.TIOCINQ, bytes(4)), sys.byteorder):
                assert time.monotonic() < deadline, "the program never read its keys"
                threading.Event().wait(0.01)
        finally:
            os.close(terminal)

    def mark(self) -> int:
        with self._changed:
            return len(self.sent)

    def since(self, mark: int) -> bytes:
        with self._changed:
            return self.sent[mark:]

    def resize(self, columns: int, lines: int) -> None:
        with self._changed:
            self.picture.resize(columns, lines)
        termios.tcsetwinsize(self._keyboard, (lines, columns))

    def stopped(self) -> None:
        """Wait until the program has been suspended."""
        deadline = time.monotonic() + PATIENCE
        while self._state() != "T":
            assert time.monotonic() < deadline, f"the program was never suspended: {self._state()}"
            threading.Event().wait(0.01)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def hang_up(self) -> int:
        """Take the terminal away, as a lost connection does; the exit status."""
        self._let_go()
        return self.process.wait(PATIENCE)

    def _let_go(self) -> None:
        if self._keyboard >= 0:
            os.write(self._take_away, b".")
            self._reader.join(PATIENCE)
            for descriptor in (self._keyboard, self._taken_away, self._take_away):
                os.close(descriptor)
            self._keyboard = -1

    def ended(self) -> int:
        """Wait for the end of the program and of what it sends; the exit status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def _state(self) -> str:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    @property
    def processor_seconds(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return (
            int(
                next(
                    line
                    for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
                    if line.startswith("VmRSS:")
                ).split()[1]
            )
            * 1024
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            if self._state() == "T":
                self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._let_go()
