"""Bursts of keys on the dashboard: it never fails, and it can still be used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from textual import events

from entrepot.engine.engine import Engine
from tests.scenarios.fuzz.conftest import Watch, examples
from tests.tui.conftest import Person, dashboard

KEYS = st.sampled_from(
    [
        *"1234567890?/:jkgGndepyrcasoxbfhl -*.",
        *(
            "enter",
            "escape",
            "tab",
            "shift+tab",
            "up",
            "down",
            "left",
            "right",
            "home",
            "end",
            "pageup",
            "pagedown",
            "backspace",
            "delete",
            "f1",
            "space",
        ),
        *("ctrl+u", "ctrl+l", "ctrl+f", "ctrl+b", "ctrl+o", "ctrl+w", "ctrl+a", "ctrl+k", "ctrl+c"),
    ]
)
BURSTS = st.lists(KEYS, min_size=1, max_size=40)


def press_at_once(person: Person, keys: list[str]) -> None:
    """All keys lie ready before the first is looked at."""
    for key in keys:
        person.app.post_message(
            events.Key(key, key if len(key) == 1 else " " if key == "space" else None)
        )


@examples(6)
@given(BURSTS, BURSTS)
async def test_after_any_burst_of_keys_the_dashboard_answers(
    cached: Engine, watch: Watch, first: list[str], second: list[str]
) -> None:
    async with dashboard(cached) as person:
        for keys in (first, second):
            press_at_once(person, keys)
            await person.until(lambda: not person.app._queued_keys)
            assert person.app.faults == []
        # Out of whatever was opened, back to the list of keys.
        for _ in range(8):
            await person.press("escape")
        if len(person.app.screen_stack) > 1:
            await person.press("ctrl+c", "right", "enter")
        await person.until(lambda: not person.app._queued_keys)
        await person.press("f1")
        await person.sees("This screen")
        assert person.app.faults == []
        await person.press("escape")
    assert watch.unforeseen == []
