"""A reader of what a terminal sends: keys, pastes, mouse reports, replies.

Over a slow line an escape sequence arrives in pieces, and Textual's parser takes the pieces for
keys after a tenth of a second: an arrow closes a dialog and types ``[A``. It also waits for ever
for the end of a paste, ends the program at a byte that is not UTF-8, and types what it does not
understand (F86). This reader first puts a sequence together, by the grammar of ECMA-48, and then
passes it to Textual's parser, which knows the names of the keys.

A lone escape is the key or the start of a sequence. Programs wait: ncurses and tmux up to 0.5 s,
Vim 0.1 s, fish 0.03 s. But a terminal replies in order: queried for its status (DSR) when an escape
has arrived, it sends the rest of a sequence before its reply. So the key is known after one round
trip, on a slow line and on a fast one. Only where a terminal replies to nothing, the time of
`ESCDELAY` decides, whose default is that of ncurses.

Text that arrives faster than a person types is no command (F66): see `KeyReader.feed`.
"""

from __future__ import annotations

import os
import re
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Mapping

from textual import events
from textual._xterm_parser import XTermParser
from textual.keys import Keys
from textual.message import Message

from tui.key_queue import IN_BURST

ESCAPE = "\x1b"

ESCAPE_DELAY = 0.5
"""Seconds after which a lone escape is the key, where the terminal does not reply and ESCDELAY is
not set. As with ncurses it is more than the 0.4 s by which mobile and satellite links separate what
was sent together."""

REPLY_TIMEOUT = 1.0
"""Seconds that a terminal which has replied before may take for the next reply."""

SEQUENCE_TIMEOUT = 1.0
"""Seconds of silence after which an incomplete sequence is discarded: no part of it is a key."""

ALT_GAP = 0.05
"""Seconds within which escape and a letter are one key, alt and the letter. Two keys of a person
are further apart; a terminal sends both at once."""

PASTE_TIMEOUT = 2.0
"""Seconds of silence after which the end of a bracketed paste is lost, and keys are keys again."""

PASTE_LIMIT = 1_000_000
"""Characters that a paste may have; the rest is discarded. The import takes 900,000 bytes."""

SETTLING = 0.01
"""Seconds for which text waits for more of it: one paste may arrive in several reads."""

RUN_LIMIT = 8
"""Characters at once that may still be keys typed ahead, on a slow line or a busy machine. More of
them are a paste."""

RUN_GAP = 0.15
"""Seconds within which what follows such a paste belongs to it."""

BURST_GAP = 0.02
"""Seconds between two keys below which the second is no decision of a person: a program types. Two
fingers of a fast typist are at least 30 ms apart."""

REPEAT_GAP = 0.04
"""The same for a key that follows itself: one that is held down repeats 25 to 40 times a second,
faster than any finger."""

STATUS_QUERY, STATUS_REPLY = f"{ESCAPE}[5n", re.compile(r"\x1b\[[03]n\Z")
"""Device status report: every terminal since the VT100 replies to it."""

PASTE_BEGIN, PASTE_END = f"{ESCAPE}[200~", f"{ESCAPE}[201~"

_SEQUENCE_LIMIT = 128
"""Characters of the longest control sequence."""
_PARSER_LIMIT = 32
"""Characters of the longest one that Textual's parser knows. A longer one it turns into keys."""
_STRING_LIMIT = 8192
"""Characters of the longest control string (OSC, DCS and others): replies that were not queried."""

_CONTROL = re.compile(r"\x1b\[(?:\[.|M...|(?![\[M])[0-?]*[ -/]*[@-~]|[0-?]+[ -/]*[@-~])", re.DOTALL)
"""A control sequence: those of the standard, F1 to F5 of the Linux console, and the mouse report
with three bytes behind it."""
_CONTROL_BEGIN = re.compile(r"\x1b\[(?:\[|M.{0,2}|[0-?]*[ -/]*)", re.DOTALL)
_RXVT = re.compile(r"\x1b\[\d+\$")
"""Keys with shift of rxvt; elsewhere the character at their end stands within a sequence."""
_SHIFT_THREE = re.compile(r"\x1bO[0-9;]*[@-~]")
_SHIFT_THREE_BEGIN = re.compile(r"\x1bO[0-9;]*")


def escape_delay(environment: Mapping[str, str] = os.environ) -> float:
    """``ESCDELAY`` in seconds; it is in milliseconds, as for ncurses."""
    delay = environment.get("ESCDELAY", "")
    return (
        min(int(delay) / 1000, 10.0)
        if delay.isascii() and delay.isdigit() and int(delay)
        else ESCAPE_DELAY
    )


class KeyReader:
    """Turns what a terminal sends into events.

    `deadline` says when `tick` must be called if nothing arrives. *query* queries the terminal's
    status, *delay* is that of a lone escape in seconds.
    """

    def __init__(
        self,
        *,
        query: Callable[[], None] = lambda: None,
        delay: float = ESCAPE_DELAY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._query = query
        self._delay = delay
        self._clock = clock
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._parser = XTermParser()
        self._messages: list[Message] = []
        self._sequence = ""
        self._sequence_deadline = 0.0
        self._sequence_time = 0.0
        """When the escape at its start arrived."""
        self._replies = False
        """Whether the terminal has replied to the last query."""
        self._pending_queries = 0
        self._paste: list[str] | None = None
        self._paste_size = 0
        self._paste_end = ""
        """The last characters of a paste: its end may arrive in pieces."""
        self._paste_deadline = 0.0
        self._run: list[str] = []
        self._run_size = 0
        self._run_varies = False
        self._run_deadline = 0.0
        self._paste_until = 0.0
        self._last_key = ""
        self._last_key_time = -1.0
        self._run_in_burst = False

    @property
    def deadline(self) -> float | None:
        """The time at which silence decides something; None if nothing is pending."""
        deadlines = []
        if self._sequence:
            deadlines.append(self._sequence_deadline)
        if self._paste is not None:
            deadlines.append(self._paste_deadline)
        if self._run:
            deadlines.append(self._run_deadline)
        return min(deadlines, default=None)

    def feed(self, data: bytes) -> list[Message]:
        """The events that are complete with *data*.

        Text without an escape waits a hundredth of a second for more. More than eight different
        characters are a paste that the terminal did not bracket, so they become one `events.Paste`.
        Keys in a shorter run are marked with `IN_BURST`: enter among them may be a line end.
        """
        self._expire()
        text = self._decoder.decode(data)
        now, place = self._clock(), 0
        while place < len(text):
            if self._paste is not None:
                place += self._read_paste(text[place:], now)
            elif self._sequence:
                place += self._read_sequence(text[place], now)
            elif text[place] == ESCAPE:
                self._begin_sequence(now)
                place += 1
            else:
                end = text.find(ESCAPE, place)
                self._read_run(text[place : end if end >= 0 else len(text)], now)
                place = end if end >= 0 else len(text)
        if (
            self._sequence == ESCAPE
            and self._sequence_time == now
            and self._replies
            and not self._pending_queries
        ):
            self._pending_queries += 1
            self._sequence_deadline = now + REPLY_TIMEOUT
            self._query()
        return self._take_messages()

    def tick(self) -> list[Message]:
        """The events that the silence since the last bytes has decided."""
        self._expire()
        return self._take_messages()

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def _expire(self) -> None:
        now = self._clock()
        if self._run and now >= self._run_deadline:
            self._end_run()
        if self._sequence and now >= self._sequence_deadline:
            self._end_incomplete_sequence()
        if self._paste is not None and now >= self._paste_deadline:
            self._end_paste()

    # Sequences

    def _begin_sequence(self, now: float) -> None:
        self._sequence, self._sequence_time = ESCAPE, now
        self._sequence_deadline = now + (REPLY_TIMEOUT if self._pending_queries else self._delay)

    def _read_sequence(self, character: str, now: float) -> int:
        """Add a character to a sequence; returns 1, or 0 where it is no part of it."""
        before = self._sequence
        if before == ESCAPE:
            if character == ESCAPE:
                self._emit(events.Key("escape", ESCAPE))
                self._begin_sequence(now)
                return 1
            if now - self._sequence_time > ALT_GAP and character not in "[O":
                # Escape, and later another key.
                self._sequence = ""
                self._emit(events.Key("escape", ESCAPE))
                return 0
        elif before[1] in "P]X^_":
            return self._read_string(character, now)
        elif character == ESCAPE:
            # The sequence was cut off.
            self._begin_sequence(now)
            return 1
        sequence = before + character
        complete, begin = (
            (_SHIFT_THREE, _SHIFT_THREE_BEGIN) if sequence[1] == "O" else (_CONTROL, _CONTROL_BEGIN)
        )
        if sequence[1] not in "[OP]X^_" or complete.fullmatch(sequence):
            self._sequence = ""
            self._emit_sequence(sequence)
        elif sequence[1] in "P]X^_" or (
            begin.fullmatch(sequence) and len(sequence) <= _SEQUENCE_LIMIT
        ):
            self._sequence, self._sequence_deadline = sequence, now + SEQUENCE_TIMEOUT
        else:
            # No terminal sends this. The character may be a key.
            self._sequence = ""
            return 0
        return 1

    def _read_string(self, character: str, now: float) -> int:
        """Read a control string, which ends with BEL or ST.

        It is a reply that was not queried, or arrived late.
        """
        self._sequence_deadline = now + SEQUENCE_TIMEOUT
        if self._sequence.endswith(ESCAPE):
            self._sequence = ""
            if character == "\\":
                return 1
            self._begin_sequence(now)
            return 0
        before = self._sequence if len(self._sequence) < _STRING_LIMIT else self._sequence[:2]
        self._sequence = "" if character == "\x07" else before + character
        return 1

    def _end_incomplete_sequence(self) -> None:
        """Decide after silence: the sequence was a key, or is never completed."""
        sequence, self._sequence = self._sequence, ""
        if sequence == ESCAPE:
            if self._pending_queries:
                # The terminal used to reply.
                self._replies, self._pending_queries = False, 0
            self._emit(events.Key("escape", ESCAPE))
        elif len(sequence) == 2 or _RXVT.fullmatch(sequence):
            # Of two characters: alt and a letter that also begins sequences.
            self._emit_sequence(sequence)

    def _emit_sequence(self, sequence: str) -> None:
        """Emit the events of a complete sequence.

        A reply of the terminal and a key without a name are no events of the dashboard.
        """
        if sequence == PASTE_BEGIN:
            self._end_run()
            self._paste, self._paste_size, self._paste_end = [], 0, ""
            self._paste_deadline = self._clock() + PASTE_TIMEOUT
        elif STATUS_REPLY.match(sequence):
            self._replies, self._pending_queries = True, 0
        elif sequence != PASTE_END:
            if len(sequence) == 2:
                name = (
                    sequence[1]
                    if sequence[1].islower() or not sequence[1].isalpha()
                    else f"shift+{sequence[1].lower()}"
                )
                messages = self._parsed(sequence) or (
                    [events.Key(f"alt+{name}", sequence[1])] if sequence[1].isalnum() else []
                )
            else:
                messages = self._parsed(sequence)
            for message in messages:
                if isinstance(message, events.Key) and message.character is not None:
                    self._mark(
                        message, in_burst=self._is_in_burst(message.character, self._clock())
                    )
                self._emit(message)
                if isinstance(message, events.Key) and message.character is None:
                    # A cursor key is no part of a text: enter may follow it at any speed.
                    self._last_key, self._last_key_time = "", -1.0

    def _parsed(self, sequence: str) -> list[Message]:
        if len(sequence) > _PARSER_LIMIT:
            return []
        try:
            messages = list(self._parser.feed(sequence))
        except (ValueError, OverflowError):
            # A number that is no character.
            messages = []
        if not messages:
            # The parser may wait for more.
            before, self._parser = self._parser, XTermParser()
            for name in (
                "last_x",
                "last_y",
                "mouse_pixels",
                "terminal_size",
                "terminal_pixel_size",
            ):
                setattr(self._parser, name, getattr(before, name))
        return messages

    def _emit(self, message: Message) -> None:
        """Emit a message, after the text that arrived before it."""
        self._end_run()
        self._messages.append(message)

    # Bracketed pastes

    def _read_paste(self, text: str, now: float) -> int:
        """Read a paste up to its end; returns how many characters of *text* belong to it."""
        assert self._paste is not None
        self._paste_deadline = now + PASTE_TIMEOUT
        before = self._paste_end
        end = (before + text).find(PASTE_END)
        length = end + len(PASTE_END) - len(before) if end >= 0 else len(text)
        part = text[:length]
        self._paste_end = (before + part)[-len(PASTE_END) + 1 :]
        room = PASTE_LIMIT + len(PASTE_END) - self._paste_size
        if room > 0:
            self._paste.append(part[:room])
            self._paste_size += len(part[:room])
        if end >= 0:
            self._end_paste()
        return length

    def _end_paste(self) -> None:
        text = "".join(self._paste or ()).removesuffix(PASTE_END)
        self._paste = None
        self._emit(events.Paste(text[:PASTE_LIMIT].replace("\x00", "")))

    # Text without brackets

    def _read_run(self, text: str, now: float) -> None:
        if not self._run:
            self._run_in_burst = self._is_in_burst(text[0], now)
        self._last_key, self._last_key_time = text[-1], now
        if self._run_size < PASTE_LIMIT:
            self._run.append(text[: PASTE_LIMIT - self._run_size])
        self._run_size += len(text)
        self._run_varies = self._run_varies or any(
            character != self._run[0][0] for character in text
        )
        self._run_deadline = now + (RUN_GAP if self._is_paste(now) else SETTLING)

    def _is_paste(self, now: float) -> bool:
        if now < self._paste_until:
            return True
        # One character many times is a key that is held down.
        return self._run_size > RUN_LIMIT and self._run_varies

    def _end_run(self) -> None:
        if not self._run:
            return
        text, size = "".join(self._run), self._run_size
        is_paste = self._is_paste(self._last_key_time)
        self._run, self._run_size, self._run_varies = [], 0, False
        if is_paste:
            self._paste_until = self._last_key_time + RUN_GAP
            self._messages.append(events.Paste(text.replace("\x00", "")))
            return
        in_burst = size > 1 or self._run_in_burst
        for character in text:
            for message in self._parsed(character):
                if isinstance(message, events.Key):
                    self._mark(message, in_burst=in_burst)
                    if message.key == Keys.Ignore:
                        continue
                self._messages.append(message)

    def _is_in_burst(self, key: str, now: float) -> bool:
        """Whether a key follows another too quickly; it is the last key from now on."""
        before, gap = self._last_key, now - self._last_key_time
        is_first = self._last_key_time < 0
        self._last_key, self._last_key_time = key, now
        return not is_first and gap < (REPEAT_GAP if key == before else BURST_GAP)

    @staticmethod
    def _mark(key: events.Key, *, in_burst: bool) -> None:
        if in_burst:
            vars(key)[IN_BURST] = True
