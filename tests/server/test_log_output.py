"""Where log lines go, when that is a terminal that was closed, a pipe that is never read, or a file
that is rotated (F79)."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrepot.errors import EngineError
from entrepot.server import log_format, log_output
from entrepot.server.log_output import LogFile, LogOutput
from tests.programs import require_program

CHECKOUT = Path(__file__).parents[2]


class LogTarget:
    """Takes lines, fails, or hangs on command."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def write(self, data: bytes) -> None:
        self.reached.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        self.lines += data.decode().splitlines()


@pytest.fixture
def target() -> Iterator[LogTarget]:
    target = LogTarget()
    yield target
    target.gate.set()


def logger_of(output: LogOutput) -> logging.Logger:
    logger = logging.getLogger("tests.log_output")
    logger.handlers[:], logger.propagate = [output], False
    logger.setLevel(logging.INFO)
    return logger


def test_lines_are_written_in_their_order(target: LogTarget) -> None:
    output = LogOutput(target)
    log = logger_of(output)
    for number in range(1000):
        log.info("%d", number)
    output.flush()
    assert target.lines == [str(number) for number in range(1000)]


def test_f79_a_target_that_hangs_blocks_no_caller_and_lines_are_counted(target: LogTarget) -> None:
    """A terminal that is paused with ctrl+s, or a log file on a disk that hangs."""
    output = LogOutput(target, waiting=3)
    log = logger_of(output)
    target.gate.clear()
    log.info("first")
    assert target.reached.wait(60)
    for number in range(10):
        log.info("%d", number)
    target.gate.set()
    output.flush()
    assert target.lines == [
        "first",
        "7 lines are missing here: the target of the log did not accept it in time.",
        "0",
        "1",
        "2",
    ]


def test_f79_the_end_does_not_wait_for_a_target_that_hangs(
    target: LogTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "FLUSH_TIMEOUT", 0.01)
    output = LogOutput(target)
    target.gate.clear()
    logger_of(output).info("x")
    output.flush()
    assert target.lines == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.ENOSPC])
def test_f79_a_failing_target_raises_nowhere_and_lost_lines_are_reported(
    target: LogTarget, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    output = LogOutput(target)
    log = logger_of(output)
    target.error = OSError(number, os.strerror(number))
    log.info("lost")
    log.info("lost")
    output.flush()
    target.error = None
    log.info("written")
    log.info("also written")
    output.flush()
    assert target.lines == [
        f"2 lines are missing here: {os.strerror(number)}.",
        "written",
        "also written",
    ]
    assert capfd.readouterr().err == ""


def test_the_thread_that_writes_ends_when_there_is_nothing_to_write(
    target: LogTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "IDLE_TIMEOUT", 0)
    # Threads of other tests may wait for ten seconds before they end.
    others = set(threading.enumerate())
    output = LogOutput(target)
    log = logger_of(output)
    for text in ("one", "two"):
        log.info(text)
        for thread in set(threading.enumerate()) - others:
            if thread.name == "entrepot-log":
                thread.join(60)
        output.flush()
    assert target.lines == ["one", "two"]


# A log file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "engine.log"


@pytest.fixture
def file(path: Path) -> Iterator[LogFile]:
    path.parent.mkdir()
    file = LogFile(path)
    yield file
    file.close()


def test_f79_a_log_file_that_is_renamed_is_made_again(file: LogFile, path: Path) -> None:
    file.write(b"one\n")
    path.rename(path.with_name("engine.log-20261130"))
    file.write(b"two\n")
    assert path.read_text() == "two\n"
    assert path.with_name("engine.log-20261130").read_text() == "one\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_f79_a_log_file_that_is_removed_with_its_directory_is_made_again(
    file: LogFile, path: Path
) -> None:
    file.write(b"one\n")
    shutil.rmtree(path.parent)
    file.write(b"two\n")
    assert path.read_text() == "two\n"


def test_f79_a_log_file_that_is_truncated_goes_on_at_its_beginning(
    file: LogFile, path: Path
) -> None:
    file.write(b"one\n")
    os.truncate(path, 0)
    file.write(b"two\n")
    assert path.read_text() == "two\n"


def test_f79_where_the_file_can_not_be_made_again_the_one_before_is_written_on(
    file: LogFile, path: Path
) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.mkdir()
    file.write(b"one\n")
    assert other.read_text() == "one\n"
    path.rmdir()
    file.write(b"two\n")
    assert path.read_text() == "two\n"


def test_f79_a_log_file_is_bounded_with_one_before_it(path: Path) -> None:
    path.parent.mkdir()
    file = LogFile(path, limit=100)
    for number in range(100):
        file.write(b"%039d\n" % number)
    file.close()
    assert sorted(each.name for each in path.parent.iterdir()) == ["engine.log", "engine.log.1"]
    assert path.read_bytes().endswith(b"%039d\n" % 99)
    assert all(each.stat().st_size <= 100 for each in path.parent.iterdir())


def test_f79_standard_error_follows_a_log_file_that_it_leads_to(path: Path) -> None:
    """As in an engine that the dashboard started: what a crash says must not go into a file that
    was rotated away."""
    path.parent.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from entrepot.server.log_output import LogFile\n"
        f"path = Path({str(path)!r}); file = LogFile(path); path.rename(path.with_name('old'))\n"
        "file.write(b'line\\n')\n"
        "print('on standard output'); sys.exit('on standard error')"
    )
    with path.open("ab") as output:
        subprocess.run(
            [sys.executable, "-c", code], stdout=output, stderr=output, check=False, cwd=CHECKOUT
        )
    assert set(path.read_text().splitlines()) == {"line", "on standard output", "on standard error"}
    assert path.with_name("old").read_text() == ""


def test_a_log_file_that_can_not_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=rf"The log {tmp_path} can't be written: Is a directory\..*--log-file"
    ):
        log_format.set_up_logging("plain", tmp_path)


@pytest.mark.parametrize("way", ["create", "copytruncate"])
def test_f79_logrotate_rotates_it(file: LogFile, path: Path, tmp_path: Path, way: str) -> None:
    logrotate = require_program("logrotate")
    path.parent.chmod(0o700)
    file.write(b"one\n")
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(
        f"{path} {{\n  rotate 2\n  {'create 0600' if way == 'create' else way}\n}}\n"
    )
    configuration.chmod(0o600)
    subprocess.run(
        [logrotate, "--force", "--state", tmp_path / "state", configuration],
        check=True,
        capture_output=True,
    )
    file.write(b"two\n")
    assert (path.read_text(), path.with_name("engine.log.1").read_text()) == ("two\n", "one\n")


# Real descriptors


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed_terminal() -> int:
    keyboard, terminal = os.openpty()
    os.close(keyboard)
    return terminal


CODE = """
import logging, os, sys
from entrepot.server.log_format import set_up_logging
output = set_up_logging("plain")
for number in range(100):
    logging.getLogger("entrepot").info("%d", number)
    logging.getLogger("other").warning("%d", number)
output.flush()
os.write(int(sys.argv[1]), b"goes on")
"""


@pytest.mark.parametrize("make", [closed_pipe, closed_terminal])
def test_f79_a_closed_standard_error_stops_nothing_and_keeps_the_exit_status(
    make: Callable[[], int],
) -> None:
    descriptor = make()
    reading, writing = os.pipe()
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(writing)],
        stderr=descriptor,
        pass_fds=[writing],
        check=False,
        cwd=CHECKOUT,
    )
    os.close(descriptor)
    os.close(writing)
    assert (process.returncode, os.read(reading, 100)) == (0, b"goes on")
    os.close(reading)


def test_f79_a_standard_error_made_non_blocking_by_a_program_takes_all_lines() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    code = CODE.replace("range(100)", "range(40)").replace('"%d"', '"%d" + "x" * 4000')
    process = subprocess.Popen(
        [sys.executable, "-c", code, "1"], stdout=subprocess.DEVNULL, stderr=writing, cwd=CHECKOUT
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert process.wait(60) == 0
    assert len(lines) == 80
