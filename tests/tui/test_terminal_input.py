"""What a terminal sends, in pieces and with gaps: the clock is the test's, so no test waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual.message import Message

from tui.key_queue import IN_BURST
from tui.terminal_input import (
    ALT_GAP,
    ESCAPE_DELAY,
    PASTE_LIMIT,
    PASTE_TIMEOUT,
    REPEAT_GAP,
    REPLY_TIMEOUT,
    RUN_GAP,
    RUN_LIMIT,
    SEQUENCE_TIMEOUT,
    SETTLING,
    KeyReader,
    escape_delay,
)

STATUS_REPLY = b"\x1b[0n"
SLOW = 0.4
"""Seconds between the pieces of what was sent at once, on a bad line."""


class Line:
    """A terminal line, and a clock that stands still until the test moves it."""

    def __init__(self, *, delay: float = ESCAPE_DELAY) -> None:
        self.now = 100.0
        self.questions = 0
        self.messages: list[Message] = []
        self._reader = KeyReader(query=self._asked, delay=delay, clock=lambda: self.now)

    def _asked(self) -> None:
        self.questions += 1

    def send(self, data: bytes) -> None:
        self.messages += self._reader.feed(data)

    def wait(self, seconds: float) -> None:
        """Let the time pass as the driver does, which looks at each deadline."""
        until = self.now + seconds
        while (deadline := self._reader.deadline) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.messages += self._reader.tick()
        self.now = until
        self.messages += self._reader.tick()

    def trickle(self, data: bytes, gap: float = SLOW) -> None:
        for index in range(len(data)):
            self.send(data[index : index + 1])
            self.wait(gap)

    @property
    def is_quiet(self) -> bool:
        return self._reader.deadline is None

    def taken(self) -> list[str]:
        """What has come since the last look, in words."""
        self.wait(SETTLING)
        messages, self.messages = self.messages, []
        return [_word(each) for each in messages]


def _word(message: Message) -> str:
    if isinstance(message, events.Key):
        return message.key
    if isinstance(message, events.Paste):
        return f"paste {message.text!r}"
    return type(message).__name__


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def answering() -> Line:
    """A line to a terminal that has answered once."""
    line = Line()
    line.send(STATUS_REPLY)
    return line


# Sequences in pieces (F86)

SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[1;5C": "ctrl+right",
    b"\x1bOB": "down",
    b"\x1b[5~": "pageup",
    b"\x1bOP": "f1",
    b"\x1b[[A": "f1",
    b"\x1b[Z": "shift+tab",
    b"\x1b[<0;10;5M": "MouseDown",
    b"\x1b[<0;10;5m": "MouseUp",
    b"\x1b[I": "AppFocus",
    b"\x1b[O": "AppBlur",
    b"\x1b[27u": "escape",
    b"\x1b[113u": "q",
}


@pytest.mark.parametrize(("sequence", "word"), SEQUENCES.items(), ids=lambda value: repr(value))
def test_a_sequence_that_comes_byte_by_byte_is_one_key(
    line: Line, sequence: bytes, word: str
) -> None:
    """F86: Textual took the pieces for escape and letters."""
    line.trickle(sequence)
    assert line.taken() == [word]
    line.send(sequence)
    assert line.taken() == [word]


@given(st.lists(st.sampled_from(sorted(SEQUENCES)), min_size=1, max_size=6), st.data())
def test_keys_are_the_same_wherever_the_line_cuts_them(
    sequences: list[bytes], data: st.DataObject
) -> None:
    pending, line = b"".join(sequences), Line()
    while pending:
        size = data.draw(st.integers(1, len(pending)))
        line.send(pending[:size])
        pending = pending[size:]
        line.wait(data.draw(st.floats(0, SLOW)))
    assert line.taken() == [SEQUENCES[each] for each in sequences]


def test_a_lone_escape_is_the_key_after_the_delay(line: Line) -> None:
    line.send(b"\x1b")
    line.wait(ESCAPE_DELAY - 0.01)
    assert line.messages == []
    line.wait(0.01)
    assert line.taken() == ["escape"]
    assert line.questions == 0


def test_where_the_terminal_answers_its_answer_decides_at_once(answering: Line) -> None:
    """Much sooner than any delay on a quick line, and never too soon on a slow one."""
    answering.send(b"\x1b")
    assert answering.questions == 1
    answering.send(STATUS_REPLY)
    assert answering.taken() == ["escape"]
    # The rest of a sequence comes before the answer, however long it takes.
    answering.send(b"\x1b")
    answering.wait(0.9)
    answering.send(b"[A" + STATUS_REPLY)
    assert answering.taken() == ["up"]
    assert answering.questions == 2
    assert answering.is_quiet


def test_an_answer_in_pieces_is_an_answer(answering: Line) -> None:
    answering.send(b"\x1b")
    answering.wait(0.3)
    answering.trickle(STATUS_REPLY, 0.3)
    assert answering.taken() == ["escape"]
    assert answering.questions == 1


def test_a_terminal_that_answers_no_more_costs_one_long_wait(answering: Line) -> None:
    answering.send(b"\x1b")
    answering.wait(REPLY_TIMEOUT)
    assert answering.taken() == ["escape"]
    answering.send(b"\x1b")
    answering.wait(ESCAPE_DELAY)
    assert answering.taken() == ["escape"]
    assert answering.questions == 1


def test_escape_and_then_another_key_are_two_keys(line: Line) -> None:
    line.send(b"\x1b")
    line.wait(ALT_GAP + 0.01)
    line.send(b"n")
    assert line.taken() == ["escape", "n"]
    line.send(b"\x1b\x1b")
    line.wait(ESCAPE_DELAY)
    assert line.taken() == ["escape", "escape"]
    line.send(b"\x1bx\x1b[")
    line.wait(SEQUENCE_TIMEOUT)
    assert line.taken()[0] == "alt+x"


def test_a_sequence_that_never_ends_is_no_letters(line: Line) -> None:
    line.send(b"\x1b[1;")
    line.wait(SEQUENCE_TIMEOUT)
    line.send(b"\x1b[<0;10")
    line.wait(SEQUENCE_TIMEOUT)
    line.send(b"\x1b[" + b"1;" * 30 + b"A")
    assert line.taken() == []
    line.send(b"\x1b[" + b"1;" * 500 + b"A")
    line.wait(SEQUENCE_TIMEOUT + RUN_GAP)
    assert not {each for each in line.taken() if not each.startswith("paste")}
    line.send(b"j")
    assert line.taken() == ["j"]
    assert line.is_quiet


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1b[?1;2c",
        b"\x1b[>41;354;0c",
        b"\x1b[?1u",
        b"\x1b[?25;1$y",
        b"\x1b[8;24;80t",
        b"\x1b]11;rgb:1a1a/1b1b/2626\x07",
        b"\x1b]52;c;ZA==\x1b\\",
        b"\x1bP>|XTerm(390)\x1b\\",
        b"\x1bP1+r544e\x1b\\",
        b"\x1b_Gi=1;OK\x1b\\",
        b"\x1b[99999999999999999999u",
        b"\x1b[>4;2m",
    ],
)
def test_answers_of_the_terminal_are_no_keys(line: Line, answer: bytes) -> None:
    """F86: late answers to questions of this program or the one before it."""
    line.send(answer)
    line.send(b"q")
    assert line.taken() == ["q"]
    line.wait(1)
    # Pieces of any size; only right behind the first escape has a string to go on quickly.
    line.send(answer[:2])
    line.trickle(answer[2:])
    line.wait(1)
    line.send(b"q")
    assert line.taken() == ["q"]


def test_a_control_string_without_an_end_keeps_neither_keys_nor_memory(line: Line) -> None:
    line.send(b"\x1b]52;c;" + b"A" * 100_000)
    line.wait(SEQUENCE_TIMEOUT)
    line.send(b"j")
    assert line.taken() == ["j"]


# Bytes that are no text


def test_a_character_in_two_pieces_is_one(line: Line) -> None:
    line.trickle("Жé名".encode())
    assert line.taken() == ["Ж", "é", "名"]


def test_bytes_that_are_no_utf8_are_no_end(line: Line) -> None:
    """F86: they ended the thread that reads the keys."""
    line.send(b"\xff")
    line.wait(1)
    line.send(b"\xe4")
    line.wait(1)
    line.send(b"j")
    assert line.taken()[-1] == "j"


@given(st.lists(st.tuples(st.binary(max_size=12), st.floats(0, 3)), max_size=12))
def test_the_keyboard_never_dies(pieces: list[tuple[bytes, float]]) -> None:
    """F86: whatever has come, after some seconds of silence a key is a key."""
    line = Line()
    for data, gap in pieces:
        line.send(data)
        line.wait(gap)
    line.wait(10)
    assert line.is_quiet
    line.taken()
    # What may be left is the begin of a character.
    line.send(b"\x1b[A")
    assert line.taken()[-1] == "up"


# Pastes with brackets


def test_a_paste_in_pieces_is_one_paste(line: Line) -> None:
    """F86: also where its end is cut in two."""
    line.trickle(b"\x1b[200~dy\r\nq\x1b[201~")
    assert line.taken() == ["paste 'dy\\r\\nq'"]
    line.send(b"\x1b[200~a\x1b[20")
    line.wait(1)
    line.send(b"1~j")
    assert line.taken() == ["paste 'a'", "j"]


def test_a_paste_without_an_end_lets_go_of_the_keyboard(line: Line) -> None:
    """F86: it took all keys for ever."""
    line.send(b"\x1b[200~library/nginx")
    line.wait(PASTE_TIMEOUT)
    assert line.taken() == ["paste 'library/nginx'"]
    line.send(b"j")
    assert line.taken() == ["j"]
    # The end comes after all.
    line.send(b"\x1b[201~k")
    assert line.taken() == ["k"]


def test_a_paste_without_measure_is_cut(line: Line) -> None:
    line.send(b"\x1b[200~")
    for _ in range(30):
        line.send(b"x" * 65_536)
    line.send(b"\x1b[201~j")
    line.wait(SETTLING)
    paste, key = line.messages
    assert isinstance(paste, events.Paste)
    assert len(paste.text) == PASTE_LIMIT
    assert isinstance(key, events.Key)


# Text without brackets (F66)

NAME = b"docker.io/library/nginx:1.27\r"


def test_text_that_comes_at_once_is_a_paste(line: Line) -> None:
    """F66: its letters were commands."""
    line.send(NAME)
    assert line.taken() == []
    line.wait(RUN_GAP)
    assert line.taken() == ["paste 'docker.io/library/nginx:1.27\\r'"]
    line.wait(1)
    line.send(b"j")
    assert line.taken() == ["j"]


def test_a_paste_in_several_reads_is_one(line: Line) -> None:
    line.send(NAME[:2])
    line.wait(SETTLING / 2)
    line.send(NAME[2:20])
    line.wait(RUN_GAP / 2)
    line.send(NAME[20:] + b"dy\r")
    line.wait(RUN_GAP)
    assert line.taken() == ["paste 'docker.io/library/nginx:1.27\\rdy\\r'"]


def test_a_few_keys_at_once_are_keys_of_which_the_app_knows(line: Line) -> None:
    line.send(b"2dy\r")
    line.wait(SETTLING)
    assert [(_word(each), hasattr(each, IN_BURST)) for each in line.messages] == [
        ("2", True),
        ("d", True),
        ("y", True),
        ("enter", True),
    ]


def test_keys_of_a_person_are_their_own(line: Line) -> None:
    for key in b"dy\r":
        line.send(bytes([key]))
        line.wait(0.1)
    assert not any(hasattr(each, IN_BURST) for each in line.messages)
    assert line.taken() == ["d", "y", "enter"]


@pytest.mark.parametrize("key", [b"\r", b"\x1b[13u"])
def test_a_key_that_is_leant_on_is_known(line: Line, key: bytes) -> None:
    for _ in range(3):
        line.send(key)
        line.wait(REPEAT_GAP - 0.01)
    line.wait(SETTLING)
    assert [(_word(each), hasattr(each, IN_BURST)) for each in line.messages] == [
        ("enter", False),
        ("enter", True),
        ("enter", True),
    ]


@pytest.mark.parametrize("gap", [0.025, 0.03, 0.05, 0.08])
@pytest.mark.parametrize("keys", [b"nginx:1.27\r", [b"7", b"\x1b[13u"], [b"\r", b"\x1b[B", b"\r"]])
def test_a_quick_person_is_no_paste(line: Line, keys: bytes | list[bytes], gap: float) -> None:
    """F66: two fingers press a letter and enter 30 ms apart, and enter is meant."""
    pieces = keys if isinstance(keys, list) else [bytes([key]) for key in keys]
    for piece in pieces:
        line.send(piece)
        line.wait(gap)
    assert not any(hasattr(each, IN_BURST) for each in line.messages)
    assert _word(line.messages[-1]) == "enter"


def test_a_program_that_types_is_known(line: Line) -> None:
    """F66: xdotool waits 12 ms between keys."""
    for key in b"dy\r":
        line.send(bytes([key]))
        line.wait(0.012)
    line.wait(SETTLING)
    assert [(_word(each), hasattr(each, IN_BURST)) for each in line.messages] == [
        ("d", False),
        ("y", True),
        ("enter", True),
    ]


def test_enter_behind_a_cursor_key_is_a_persons(line: Line) -> None:
    """Text has no cursor keys, so they were typed, and came together on a slow line."""
    line.send(b"\x1b[C\x1b[C\r")
    line.wait(SETTLING)
    assert [(_word(each), hasattr(each, IN_BURST)) for each in line.messages] == [
        ("right", False),
        ("right", False),
        ("enter", False),
    ]


def test_enter_behind_a_cursor_key_counts_however_soon_a_letter_was_before(line: Line) -> None:
    """A picture may come within those 40 ms, and its question be answered by a program at once."""
    line.send(b"\x03")
    line.wait(SETTLING)
    line.send(b"\x1b[C\r")
    line.wait(SETTLING)
    assert [(_word(each), hasattr(each, IN_BURST)) for each in line.messages] == [
        ("ctrl+c", False),
        ("right", False),
        ("enter", False),
    ]


def test_a_key_that_was_held_down_while_the_line_stood_still_is_no_paste(line: Line) -> None:
    line.send(b"j" * (3 * RUN_LIMIT))
    assert line.taken() == ["j"] * 3 * RUN_LIMIT


def test_the_order_of_text_and_sequences_stays(line: Line) -> None:
    line.send(b"jj\x1b[A/\x1b[B")
    assert line.taken() == ["j", "j", "up", "slash", "down"]


# The setting


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("", 0.5),
        ("25", 0.025),
        ("0", 0.5),
        ("soon", 0.5),
        ("-1", 0.5),
        ("999999", 10.0),
        ("²", 0.5),
    ],
)
def test_escdelay_is_in_milliseconds_as_for_other_programs(told: str, seconds: float) -> None:
    assert escape_delay({"ESCDELAY": told} if told else {}) == seconds
