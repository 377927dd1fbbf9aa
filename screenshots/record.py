"""Record a visit to the demo as ``demo.cast`` in this folder (asciinema's file format, version 2).

    python -m screenshots.record

It is what a terminal of 80x24 is sent, byte for byte, while a script types. To see it: ``asciinema
play screenshots/demo.cast``.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

from tests.tui.pty import Picture

CAST = Path(__file__).parent / "demo.cast"
COLUMNS, LINES = 80, 24
PATIENCE = 20.0

VISIT: tuple[tuple[str, str, float], ...] = (
    # What the screen has to show first, what is typed then, and seconds to look at it before.
    ("Last events", "p", 2.5),
    ("Pull an image into the cache", "library/postgres:17", 0.8),
    # Two enters in one moment count as pasted text.
    ("gets it from", "\r", 0.6),
    ("gets it from", "\r", 0.6),
    ("6 blobs", "\r", 2.5),
    ("from the source", "\x1b", 3.5),
    ("library/postgres:17", "4", 1.0),
    ("Cached repositories", "\r", 2.0),
    ("docker pull", "\r", 1.5),
    ("Layers of", "\x1b", 3.0),
    ("docker pull", "2", 0.8),
    ("Cache rules", "n", 1.5),
    ("Which source registry", "jjjjj\r", 1.5),
    ("Which repository", "acme/api:1.4", 1.0),
    ("Not possible", "\x15acme/*", 2.5),
    ("Source valid", "\r", 1.5),
    ("Target", "\r", 1.5),
    ("sign", "\r", 1.5),
    ("How long is a tag trusted", "\r", 2.0),
    ("Nothing is created yet", "\r", 3.0),
    ("First pull", "\x1b", 2.0),
    ("Cache rules", "1", 1.5),
    ("Last events", "", 2.0),
)
"""A pull watched layer by layer, and the wizard for a rule, which refuses what can't be."""


def record() -> list[tuple[float, str]]:
    """Run the demo on a terminal of its own, and give what it was sent, with the seconds since the
    beginning."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.execv(sys.executable, [sys.executable, "-m", "entrepot", "demo"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    chunks: list[tuple[float, str]] = []
    picture = Picture(COLUMNS, LINES)
    start = time.monotonic()

    def receive(seconds: float) -> bool:
        readable, _, _ = select.select([terminal], [], [], seconds)
        if not readable:
            return True
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return False
        text = decoder.decode(data)
        picture.feed(text)
        chunks.append((time.monotonic() - start, text))
        return bool(data)

    for text, keys, pause in VISIT:
        until = time.monotonic() + PATIENCE
        while text not in picture.text():
            if time.monotonic() > until or not receive(0.1):
                raise SystemExit(f"The screen never showed {text!r}.")
        until = time.monotonic() + pause
        while time.monotonic() < until:
            receive(0.05)
        for key in keys:
            os.write(terminal, key.encode())
            receive(0.04)
    # The second key answers the question that comes where a pull is still running.
    for quit_key in (b"\x11", b"\x1b[C\r"):
        os.write(terminal, quit_key)
        until = time.monotonic() + 2
        while time.monotonic() < until and receive(0.1):
            pass
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    return chunks


def main() -> None:
    """Record, and write the file."""
    chunks = record()
    first_drawn = next(
        (index for index, (_, text) in enumerate(chunks) if "\x1b[?1049h" in text), 0
    )
    begin = chunks[first_drawn][0]
    header = {
        "version": 2,
        "width": COLUMNS,
        "height": LINES,
        "title": "Entrepot",
        "env": {"TERM": "xterm-256color"},
    }
    events = [[round(at - begin, 3), "o", text] for at, text in chunks[first_drawn:]]
    CAST.write_text(
        "\n".join(json.dumps(each, ensure_ascii=False) for each in [header, *events]) + "\n"
    )


if __name__ == "__main__":
    main()
