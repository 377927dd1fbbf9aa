"""Keys in the order in which they were pressed, however slow the line or busy the machine: many may come in one read.

Textual hands a key to the widget that has the focus, and looks for a binding only when the key has come back through all the widgets around it. Until then the
next keys are on their way already, to where the focus was: of ``/nginx`` the ``n`` would make a rule, or be lost. Here a key that nobody types into a field
takes its action at once. The next ones wait until all has heard of it that has to, while a screen comes up, and while a wizard asks the engine whether it may
go on.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from textual import events
from textual.app import App, ReturnType
from textual.message import Message

AT_ONCE = frozenset({"ctrl+q", "ctrl+z"})
"""Keys that wait for nothing, and what waits is forgotten."""

OUT_OF_A_WAIT = frozenset({"escape", "ctrl+c"})
"""Keys that do so where an engine may keep the others waiting for long: they get out of there."""

UNHEARD = 2.0
"""Seconds after which the next key is taken although nobody has said that the last one is done with: what is gone says nothing any more."""


class HoldsKeys:
    """A screen that lets keys wait for a while: it calls `TypingApp.take_held_keys` at its end."""

    @property
    def holds_keys(self) -> bool:
        """Whether it lets them wait now."""
        return False


class TypingApp(App[ReturnType]):
    """An application that takes keys one after the other."""

    class KeyDone(Message):
        """It comes here from the widget that had the focus, behind all that a key made it tell those around it."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held_keys: list[events.Key | events.Paste] = []
        self._last_key: events.Key | events.Paste | None = None
        self._acted = 0
        self._done_with = 0

    async def on_event(self, event: events.Event) -> None:
        """Take a key, or let it wait."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif isinstance(event, events.Key) and self._is_urgent(event.key):
            self._held_keys.clear()
            await self._take(event)
        elif not self._held_keys and self._is_ready():
            await self._take(event)
        elif not self._is_repeated(event):
            self._held_keys.append(event)

    def push_screen(self, *arguments: Any, **options: Any) -> Any:
        """Show another screen; keys that wait are for that one."""
        pushed = super().push_screen(*arguments, **options)
        if self._held_keys:
            self.take_held_keys()
        return pushed

    def pop_screen(self) -> Any:
        """Leave a screen; what the last key made it tell, it tells nobody any more."""
        popped = super().pop_screen()
        self._done_with = self._acted
        self.take_held_keys()
        return popped

    def take_held_keys(self) -> None:
        """Take the keys that waited, as far as they need not wait for the next thing."""
        self.call_later(self._take_held)

    async def _take_held(self) -> None:
        while self._held_keys and self._is_ready():
            await self._take(self._held_keys.pop(0))

    def on_typing_app_key_done(self, done: KeyDone) -> None:
        """The next key may come."""
        if done.number > self._done_with:
            self._done_with = done.number
            self.take_held_keys()

    async def _take(self, event: events.Key | events.Paste) -> None:
        self._last_key = event
        if isinstance(event, events.Key) and not self._is_typed(event):
            focused = self.focused
            for priority in (True, False):
                if await self._check_bindings(event.key, priority=priority):
                    self._acted += 1
                    done = self.KeyDone(self._acted)
                    (focused if focused is not None and focused.is_attached else self.screen).post_message(done)
                    self.set_timer(UNHEARD, partial(self.on_typing_app_key_done, done))
                    return
        await super().on_event(event)

    def _is_typed(self, key: events.Key) -> bool:
        """Whether the field that has the focus takes the key for itself."""
        return self.focused is not None and self.focused.check_consume_key(key.key, key.character)

    def _is_urgent(self, key: str) -> bool:
        screen = self.screen
        return key in AT_ONCE or (key in OUT_OF_A_WAIT and isinstance(screen, HoldsKeys) and (screen.holds_keys or not screen.is_mounted))

    def _is_ready(self) -> bool:
        if self._done_with < self._acted:
            return False
        screen = self.screen
        if not screen.is_mounted:
            # This comes behind all that the screen does to come up.
            screen.call_later(self.take_held_keys)
            return False
        return not (isinstance(screen, HoldsKeys) and screen.holds_keys)

    def _is_repeated(self, event: events.Key | events.Paste) -> bool:
        """Whether it is an enter behind another in a wizard: whoever leans on the key does not mean the steps that he has not seen."""
        if not (isinstance(self.screen, HoldsKeys) and self.screen.holds_keys):
            return False
        last = self._held_keys[-1] if self._held_keys else self._last_key
        return isinstance(event, events.Key) and event.key == "enter" and isinstance(last, events.Key) and last.key == "enter"
