"""Keys in the order in which they were pressed, however slow the line or busy the machine: many may
come in one read.

Textual hands a key to the widget that has the focus, and looks for a binding only when the key has
come back through all the widgets around it. Until then the next keys are on their way already, to
where the focus was: of ``/nginx`` the ``n`` would make a rule, or be lost. Here a key that nobody
types into a field takes its action at once. The next ones wait until all has heard of it that has
to, while a screen comes up, while one is made ready for which the engine has to be asked, and while
a wizard asks the engine whether it may go on.

No key is taken for the answer to a question that was not on the screen when it was pressed (F66),
and text that comes at once is no command: `tui.terminal_input` tells it from keys.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, cast

from textual import events
from textual.app import App, ReturnType
from textual.dom import DOMNode
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input
from textual.worker import Worker

from entrepot.formatting import counted
from widgets.dialogs.base import ResultScreen

IMMEDIATE_KEYS = frozenset({"ctrl+q", "ctrl+z"})
"""Keys that wait for nothing, and what waits is forgotten."""

OUT_OF_A_WAIT = frozenset({"escape", "ctrl+c"})
"""Keys that do so where an engine may keep the others waiting for long: they get out of there."""

UNHEARD = 2.0
"""Seconds after which the next key is taken although nobody has said that the last one is done
with: what is gone says nothing any more."""

LEFT_OUT_GAP = 1.0
"""Seconds within which enter belongs to a paste that was left out: over a slow line its last line
may come late."""

IN_BURST = "_rushed"
"""Name of the attribute of a key that came at once with others, as from a paste and not from a
person: see `tui.terminal_input`."""

Arguments = ParamSpec("Arguments")


class QueuesKeys:
    """A screen that lets keys wait for a while: it calls `KeyQueueApp.resume_keys` at its end."""

    MAY_TAKE_LONG: ClassVar[bool] = False
    """Whether it is for something that takes long: there escape waits for nothing, and enter behind
    enter is not meant, as by somebody who leans on the key."""

    @property
    def queues_keys(self) -> bool:
        """Whether it lets them wait now."""
        return False


class KeyQueueApp(App[ReturnType]):
    """An application that takes keys one after the other."""

    class KeyHandled(Message):
        """It comes here from the widget that had the focus, behind all that a key made it tell
        those around it."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held_keys: list[events.Key | events.Paste] = []
        self._last_key: events.Key | events.Paste | None = None
        self._taken = 0
        self._done_with = 0
        self._unheard: Timer | None = None
        self._preparing: list[Worker[Any]] = []
        self._left_out_time = -math.inf

    async def on_event(self, event: events.Event) -> None:
        """Take a key, or let it wait."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif isinstance(event, events.Key) and self._is_urgent(event.key):
            self.discard_keys()
            self._give_up()
            await self._take(event)
        elif self._is_before_the_question(event):
            return
        elif not self._held_keys and self._is_ready():
            await self._take(event)
        elif not self._is_repeated(event):
            self._held_keys.append(event)
            self.resume_keys()

    def push_screen(self, *arguments: Any, **options: Any) -> Any:
        """Show another screen; keys that wait are for that one."""
        pushed = super().push_screen(*arguments, **options)
        self._preparing.clear()
        if isinstance(self.screen, ResultScreen) and not self.screen.accepts_type_ahead:
            # Whoever has thought better of it meanwhile gets out; nothing else was meant for what
            # nobody has read yet.
            self._held_keys = [each for each in self._held_keys if is_key(each, "escape")][:1]
        if self._held_keys:
            self.resume_keys()
        return pushed

    def post_display_hook(self) -> None:
        """A picture has gone to the terminal: from now on a key may be an answer to the question in
        it, once its choices have their places."""
        screen = self.screen
        if (
            isinstance(screen, ResultScreen)
            and not screen.is_drawn
            and screen.focused is not None
            and screen.focused.size.area
        ):
            screen.is_drawn = True

    def pop_screen(self) -> Any:
        """Leave a screen; what the last key made it tell, it tells nobody any more. Whoever waited
        for its answer goes on before the next key is taken."""
        popped = super().pop_screen()
        self.screen.post_message(self.KeyHandled(self._taken))
        return popped

    def pause_keys(self, worker: Worker[Any]) -> None:
        """Keys are for the next screen that *worker* shows, or for this one if it ends without; it
        calls `resume_keys` at its end (see `opens_screen`)."""
        self._preparing.append(worker)

    def resume_keys(self) -> None:
        """Take the keys that waited, as far as they need not wait for the next thing."""
        self.call_later(self._take_held)

    def discard_keys(self) -> None:
        """Never take the keys that wait."""
        self._held_keys.clear()

    def _give_up(self) -> None:
        for worker in self._preparing:
            worker.cancel()
        self._preparing.clear()

    async def _take_held(self) -> None:
        while self._held_keys and self._is_ready():
            await self._take(self._held_keys.pop(0))

    def on_typing_app_key_done(self, done: KeyHandled) -> None:
        """The next key may come."""
        self._key_handled(done.number)

    def _key_handled(self, number: int) -> None:
        if number > self._done_with:
            self._done_with = number
            self.resume_keys()

    def _is_before_the_question(self, event: events.Key | events.Paste) -> bool:
        """Whether it was pressed before the question on top was drawn."""
        screen = self.screen
        return (
            isinstance(screen, ResultScreen)
            and not screen.accepts_type_ahead
            and not screen.is_drawn
            and not is_key(event, "escape")
        )

    def _is_refused(self, event: events.Key | events.Paste) -> bool:
        """Whether it is left out, which is told in a line: text that no field takes, or enter at
        the end of text where enter would change something (F66)."""
        if isinstance(event, events.Paste):
            if isinstance(self.focused, Input):
                return False
            self._left_out_time = time.monotonic()
            self.notify(
                f"{counted(len(event.text), 'character', 'characters')} came at once, as from a paste, and were left out: no field takes text here.",
                severity="warning",
            )
            return True
        if not (
            is_key(event, "enter")
            and isinstance(self.screen, ResultScreen)
            and self.screen.enter_commits
        ):
            return False
        if getattr(event, IN_BURST, False):
            self.notify(
                "enter came at once with other keys, as from a paste, and was left out. Press it once more.",
                severity="warning",
            )
            return True
        if time.monotonic() - self._left_out_time >= LEFT_OUT_GAP:
            return False
        # Whoever presses it once more has read that.
        self._left_out_time = -math.inf
        self.notify(
            "enter came right behind a paste, and was left out. Press it once more.",
            severity="warning",
        )
        return True

    async def _take(self, event: events.Key | events.Paste) -> None:
        if self._is_refused(event):
            return
        self._last_key = event
        self._taken += 1
        done, focused = self.KeyHandled(self._taken), self.focused
        if not await self._acts(event):
            await super().on_event(event)
        (focused if focused is not None and focused.is_attached else self.screen).post_message(done)
        if self._unheard is not None:
            self._unheard.stop()
        self._unheard = self.set_timer(UNHEARD, lambda: self._key_handled(done.number))

    async def _acts(self, event: events.Key | events.Paste) -> bool:
        """Whether it is bound to something, which is done."""
        if not isinstance(event, events.Key) or self._is_typed(event):
            return False
        return await self._check_bindings(event.key, priority=True) or await self._check_bindings(
            event.key
        )

    def _is_typed(self, key: events.Key) -> bool:
        """Whether the field that has the focus takes the key for itself."""
        return self.focused is not None and self.focused.check_consume_key(key.key, key.character)

    @property
    def _is_preparing(self) -> bool:
        """Whether something is on its way for which the engine has to be asked."""
        self._preparing = [each for each in self._preparing if not each.is_finished]
        return bool(self._preparing)

    def _is_urgent(self, key: str) -> bool:
        if key not in OUT_OF_A_WAIT:
            return key in IMMEDIATE_KEYS
        screen = self.screen
        return self._is_preparing or (
            isinstance(screen, QueuesKeys)
            and screen.MAY_TAKE_LONG
            and (screen.queues_keys or not screen.is_mounted)
        )

    def _is_ready(self) -> bool:
        if self._done_with < self._taken or self._is_preparing:
            return False
        screen = self.screen
        if not screen.is_mounted:
            # This comes behind all that the screen does to come up.
            screen.call_later(self.resume_keys)
            return False
        return not (isinstance(screen, QueuesKeys) and screen.queues_keys)

    def _is_repeated(self, event: events.Key | events.Paste) -> bool:
        """Whether it is an enter behind another, where that is not meant."""
        screen = self.screen
        if not (isinstance(screen, QueuesKeys) and screen.MAY_TAKE_LONG and screen.queues_keys):
            return False
        last = self._held_keys[-1] if self._held_keys else self._last_key
        return (
            isinstance(event, events.Key)
            and event.key == "enter"
            and isinstance(last, events.Key)
            and last.key == "enter"
        )


def is_key(event: events.Key | events.Paste, name: str) -> bool:
    """Whether an event is the key of that name."""
    return isinstance(event, events.Key) and event.key == name


Shows = Callable[Concatenate[Any, Arguments], Coroutine[Any, Any, None]]
Begins = Callable[Concatenate[Any, Arguments], Worker[None]]


def opens_screen(exclusive_group: str = "") -> Callable[[Shows[Arguments]], Begins[Arguments]]:
    """An action that shows a screen, perhaps after a question to the engine. It goes on by itself,
    as with Textual's `work`, and keys wait for the screen.

    With *exclusive_group* whatever of that group goes on already is given up.
    """

    def decorated(method: Shows[Arguments]) -> Begins[Arguments]:
        async def shown(
            node: DOMNode, *arguments: Arguments.args, **options: Arguments.kwargs
        ) -> None:
            try:
                await method(node, *arguments, **options)
            finally:
                _typing(node).resume_keys()

        @wraps(method)
        def begin(
            node: DOMNode, *arguments: Arguments.args, **options: Arguments.kwargs
        ) -> Worker[None]:
            work = partial(shown, node, *arguments, **options)
            worker: Worker[None] = node.run_worker(
                work,
                method.__name__,
                exclusive_group or "default",
                exclusive=bool(exclusive_group),
                exit_on_error=False,
            )
            _typing(node).pause_keys(worker)
            return worker

        return cast("Begins[Arguments]", begin)

    return decorated


def _typing(node: DOMNode) -> KeyQueueApp[Any]:
    app = node.app
    assert isinstance(app, KeyQueueApp)
    return app
