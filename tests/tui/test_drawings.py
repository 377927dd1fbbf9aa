"""A handful of pictures with all their colours: what the text of a screen does not show, such as a
theme, a cursor, or a dialog above a screen.

``ENTREPOT_WRITE_GRIDS=1 pytest tests/tui/test_drawings.py`` draws them again, to be reviewed in a
browser.
"""

from __future__ import annotations

import pytest

from tests.tui.grid import is_drawn_as
from tests.tui.screens.test_overview import busy
from tests.tui.screens.test_pulls import some_pulls
from tests.tui.scripted import ScriptedEngine, look, scripted_dashboard, settled
from tui.theme import DARK, LIGHT

pytestmark = pytest.mark.usefixtures("fixed_time")


@pytest.mark.parametrize(
    ("theme", "size"), [(DARK.name, (80, 24)), (LIGHT.name, (120, 40)), ("ansi-dark", (60, 15))]
)
async def test_the_overview(theme: str, size: tuple[int, int]) -> None:
    async with scripted_dashboard(busy(), size=size) as person:
        person.app.action_choose_theme(theme)
        await person.sees("2 running   84 MB/s")
        await look(person)
        await is_drawn_as(person.app, f"overview-{theme}")


async def test_a_list_with_its_cursor_and_details_beside_it() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls()), size=(120, 40)) as person:
        await person.press("5", "G")
        await person.sees("library/nginx:1.27", "2 running   84 MB/s")
        await look(person)
        await is_drawn_as(person.app, "pulls")


async def test_the_keys_above_a_screen() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls())) as person:
        await person.press("5")
        await person.sees("2 running   84 MB/s")
        await look(person)
        await person.press("question_mark")
        await person.sees("This screen")
        await is_drawn_as(person.app, "keys")


async def test_the_first_step_of_a_wizard() -> None:
    async with scripted_dashboard(busy()) as person:
        await person.press("2", "n")
        await person.sees(
            "Which source registry does it pull from?",
            "> Docker Hub",
            "12 of at most 1,000 rules exist.",
        )
        await settled(person)
        await is_drawn_as(person.app, "wizard")
