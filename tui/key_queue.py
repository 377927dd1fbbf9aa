"""A queue of keys: each acts where it was meant to, however slow the line.

The problem: several keys may arrive in one read. Textual (8.2) posts a key to the widget that has
the focus, and looks for a binding only after the key has bubbled up through all parents as messages
(`App._on_key`). By then the following keys are on their way to where the focus was: of ``/nginx``
the ``n`` would open the wizard for a rule, or be lost.

What this module does: a key that no field consumes runs its action at once. The next keys wait

- until the widgets that the key's action posts messages to have handled them (`KeyHandled`),
- while a screen is mounted, and while one is prepared that needs an answer of the engine
  (`opens_screen`),
- while a screen says so (`QueuesKeys`), as a wizard does that asks the engine before it goes on.

No key answers a question that was not drawn when the key was pressed (F66), and text that arrives
at once is no command: `tui.terminal_input` tells it from keys.

What may go: once Textual finishes the action of a key before it takes the next one, `KeyHandled`
and `_run_binding` can be deleted. The waits for the engine and F66 are the dashboard's own.
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
"""Keys that never wait; they discard the keys that do."""

CANCEL_KEYS = frozenset({"escape", "ctrl+c"})
"""Keys that do the same while the engine may keep the others waiting for long."""

KEY_TIMEOUT = 2.0
"""Seconds after which the next key is taken although the last one was not reported as handled: a
widget that was removed reports nothing."""

PASTE_TAIL = 1.0
"""Seconds within which enter belongs to a paste that was discarded: over a slow line its last line
may arrive late."""

IN_BURST = "_in_burst"
"""Name of the attribute of a key that arrived together with others, as from a paste and not from a
person: see `tui.terminal_input`."""

Arguments = ParamSpec("Arguments")


class QueuesKeys:
    """A screen that makes keys wait for a while.

    It calls `KeyQueueApp.resume_keys` when they need not wait any longer.
    """

    MAY_TAKE_LONG: ClassVar[bool] = False
    """Whether the wait may be long. Then escape does not wait, and a repeated enter, as from a key
    that is held down, is dropped."""

    @property
    def queues_keys(self) -> bool:
        """Whether keys wait now."""
        return False


class KeyQueueApp(App[ReturnType]):
    """An application that handles one key after the other."""

    class KeyHandled(Message):
        """Arrives after all messages that the key's action has posted.

        It is posted to the widget that had the focus, and bubbles up to the application.
        """

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._queued_keys: list[events.Key | events.Paste] = []
        self._last_key: events.Key | events.Paste | None = None
        self._taken_count = 0
        self._handled_count = 0
        self._key_timer: Timer | None = None
        self._preparing: list[Worker[Any]] = []
        self._discard_time = -math.inf

    async def on_event(self, event: events.Event) -> None:
        """Take a key, or queue it."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif isinstance(event, events.Key) and self._is_urgent(event.key):
            self.discard_keys()
            self._cancel_preparation()
            await self._take(event)
        elif self._is_before_question(event):
            return
        elif not self._queued_keys and self._is_ready():
            await self._take(event)
        elif not self._is_repeated_enter(event):
            self._queued_keys.append(event)
            self.resume_keys()

    def push_screen(self, *arguments: Any, **options: Any) -> Any:
        """Show another screen; the keys that wait are for that one."""
        await_mount = super().push_screen(*arguments, **options)
        self._preparing.clear()
        if isinstance(self.screen, ResultScreen) and not self.screen.accepts_type_ahead:
            # Escape still cancels the question; no other key was meant for a question that was not
            # drawn yet.
            self._queued_keys = [event for event in self._queued_keys if is_key(event, "escape")][
                :1
            ]
        if self._queued_keys:
            self.resume_keys()
        return await_mount

    def post_display_hook(self) -> None:
        """Note that a question was drawn: from now on a key may answer it.

        Textual calls this after each frame that it has sent to the terminal. The question counts
        as drawn once its choices have their places.
        """
        screen = self.screen
        if (
            isinstance(screen, ResultScreen)
            and not screen.is_drawn
            and screen.focused is not None
            and screen.focused.size.area
        ):
            screen.is_drawn = True

    def pop_screen(self) -> Any:
        """Close a screen.

        The screen below reports the last key as handled, since the closed one no longer does. The
        code that waits for the result runs before the next key is taken.
        """
        await_remove = super().pop_screen()
        self.screen.post_message(self.KeyHandled(self._taken_count))
        return await_remove

    def pause_keys(self, worker: Worker[Any]) -> None:
        """Make keys wait for the next screen, or for the end of *worker*.

        The worker calls `resume_keys` at its end (see `opens_screen`).
        """
        self._preparing.append(worker)

    def resume_keys(self) -> None:
        """Take the keys that wait, as far as nothing else makes them wait."""
        self.call_later(self._take_queued)

    def discard_keys(self) -> None:
        """Discard the keys that wait."""
        self._queued_keys.clear()

    def _cancel_preparation(self) -> None:
        for worker in self._preparing:
            worker.cancel()
        self._preparing.clear()

    async def _take_queued(self) -> None:
        while self._queued_keys and self._is_ready():
            await self._take(self._queued_keys.pop(0))

    def on_key_queue_app_key_handled(self, message: KeyHandled) -> None:
        """Take the next key."""
        self._key_handled(message.number)

    def _key_handled(self, number: int) -> None:
        if number > self._handled_count:
            self._handled_count = number
            self.resume_keys()

    def _is_before_question(self, event: events.Key | events.Paste) -> bool:
        """Whether the key was pressed before the question on top was drawn."""
        screen = self.screen
        return (
            isinstance(screen, ResultScreen)
            and not screen.accepts_type_ahead
            and not screen.is_drawn
            and not is_key(event, "escape")
        )

    def _discards(self, event: events.Key | events.Paste) -> bool:
        """Whether an event is discarded, which a notification says.

        That is text that no field takes, and enter at the end of text where enter would change
        something (F66).
        """
        if isinstance(event, events.Paste):
            if isinstance(self.focused, Input):
                return False
            self._discard_time = time.monotonic()
            characters = counted(len(event.text), "character", "characters")
            self.notify(
                f"{characters} arrived at once, as from a paste, and were ignored: "
                "no field takes text here.",
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
                "enter arrived together with other keys, as from a paste, and was ignored. "
                "Press it once more.",
                severity="warning",
            )
            return True
        if time.monotonic() - self._discard_time >= PASTE_TAIL:
            return False
        # The next enter is a decision: the user has read the notification.
        self._discard_time = -math.inf
        self.notify(
            "enter arrived right after a paste, and was ignored. Press it once more.",
            severity="warning",
        )
        return True

    async def _take(self, event: events.Key | events.Paste) -> None:
        if self._discards(event):
            return
        self._last_key = event
        self._taken_count += 1
        message, focused = self.KeyHandled(self._taken_count), self.focused
        if not await self._run_binding(event):
            await super().on_event(event)
        target = focused if focused is not None and focused.is_attached else self.screen
        target.post_message(message)
        if self._key_timer is not None:
            self._key_timer.stop()
        self._key_timer = self.set_timer(KEY_TIMEOUT, lambda: self._key_handled(message.number))

    async def _run_binding(self, event: events.Key | events.Paste) -> bool:
        """Run what a key is bound to; whether there was anything."""
        if not isinstance(event, events.Key) or self._is_consumed(event):
            return False
        return await self._check_bindings(event.key, priority=True) or await self._check_bindings(
            event.key
        )

    def _is_consumed(self, key: events.Key) -> bool:
        """Whether the field that has the focus consumes the key."""
        return self.focused is not None and self.focused.check_consume_key(key.key, key.character)

    @property
    def _is_preparing(self) -> bool:
        """Whether a screen is being prepared that needs an answer of the engine."""
        self._preparing = [worker for worker in self._preparing if not worker.is_finished]
        return bool(self._preparing)

    def _is_urgent(self, key: str) -> bool:
        if key not in CANCEL_KEYS:
            return key in IMMEDIATE_KEYS
        screen = self.screen
        return self._is_preparing or (
            isinstance(screen, QueuesKeys)
            and screen.MAY_TAKE_LONG
            and (screen.queues_keys or not screen.is_mounted)
        )

    def _is_ready(self) -> bool:
        if self._handled_count < self._taken_count or self._is_preparing:
            return False
        screen = self.screen
        if not screen.is_mounted:
            # The call runs after all that the screen does to mount.
            screen.call_later(self.resume_keys)
            return False
        return not (isinstance(screen, QueuesKeys) and screen.queues_keys)

    def _is_repeated_enter(self, event: events.Key | events.Paste) -> bool:
        """Whether the event is an enter after another one, during a long wait."""
        screen = self.screen
        if not (isinstance(screen, QueuesKeys) and screen.MAY_TAKE_LONG and screen.queues_keys):
            return False
        last = self._queued_keys[-1] if self._queued_keys else self._last_key
        return is_key(event, "enter") and last is not None and is_key(last, "enter")


def is_key(event: events.Key | events.Paste, name: str) -> bool:
    """Whether an event is the key of that name."""
    return isinstance(event, events.Key) and event.key == name


ScreenAction = Callable[Concatenate[Any, Arguments], Coroutine[Any, Any, None]]
StartedAction = Callable[Concatenate[Any, Arguments], Worker[None]]


def opens_screen(
    exclusive_group: str = "",
) -> Callable[[ScreenAction[Arguments]], StartedAction[Arguments]]:
    """Decorate an action that shows a screen, perhaps after asking the engine.

    The action runs in a worker, as with Textual's `work`, and keys wait for its screen. With
    *exclusive_group* it cancels the workers of that group.
    """

    def decorate(method: ScreenAction[Arguments]) -> StartedAction[Arguments]:
        async def run(
            node: DOMNode, *arguments: Arguments.args, **options: Arguments.kwargs
        ) -> None:
            try:
                await method(node, *arguments, **options)
            finally:
                _key_queue(node).resume_keys()

        @wraps(method)
        def start(
            node: DOMNode, *arguments: Arguments.args, **options: Arguments.kwargs
        ) -> Worker[None]:
            worker: Worker[None] = node.run_worker(
                partial(run, node, *arguments, **options),
                method.__name__,
                exclusive_group or "default",
                exclusive=bool(exclusive_group),
                exit_on_error=False,
            )
            _key_queue(node).pause_keys(worker)
            return worker

        return cast("StartedAction[Arguments]", start)

    return decorate


def _key_queue(node: DOMNode) -> KeyQueueApp[Any]:
    app = node.app
    assert isinstance(app, KeyQueueApp)
    return app
