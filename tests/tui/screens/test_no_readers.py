"""The screen of readers where there is none yet."""

from __future__ import annotations

import pytest

from tests.tui.conftest import Person
from tests.tui.grid import lines


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_without_a_reader_the_screen_says_what_to_do(
    person: Person, size: tuple[int, int]
) -> None:
    await person.pilot.resize_terminal(*size)
    await person.press("8")
    await person.sees(
        "There is no reader yet", "Press n to create a personal token", "n new token", "q quit"
    )
    assert max(len(line) for line in lines(person.app)) <= size[0]
    if size[1] > 15:
        await person.sees("[readers]", 'htpasswd = "readers.htpasswd"', "entrepot token create")
