"""A dialog to start a pull: image, platform, and the rule that applies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from entrepot.api.errors import ClientError
from entrepot.api.labels import CACHED_LABELS, match_state
from entrepot.api.models import RuleMatch, TagDetail
from entrepot.core.platforms import Platform, PlatformInvalid
from entrepot.core.states import CachedState
from tui.presentation.images import CACHED_TONES
from widgets.dialogs.base import DIALOG_CSS, LOW_BREAKPOINTS, SCROLLING_CSS, Dialog
from widgets.dialogs.line_prompt import TYPING_PAUSE
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain, TextLine

if TYPE_CHECKING:
    from tui.engine_app import EngineApp

MAX_PLATFORM_ROWS = 6
"""Platforms that the list shows; it scrolls."""


class PullDialog(Dialog[bool]):
    """Returns whether a pull was started. A refusal of the engine is shown in place."""

    DEFAULT_CSS = f"""
    PullDialog {{ {DIALOG_CSS} {SCROLLING_CSS}
        & RowList {{ background: $surface; display: none; }}
        & RowList.-shown {{ display: block; }}
        & .label {{ height: 1; }}
        & .pull--verdict {{ height: auto; min-height: 1; margin-top: 1; color: $text-muted; }}
        & .pull--verdict.-refused {{ color: $error; }}
        & .pull--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .pull--keys, &.-low .pull--verdict, &.-low Input {{ margin: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    app: EngineApp

    def __init__(self, image: str, platform: str | None = None, *, replaces: bool = False) -> None:
        """With *replaces* the image is only proposed: the first letter typed replaces it."""
        super().__init__()
        self._replaces = replaces
        self._image = image
        self._platform = platform or ""
        self._judged = ""
        self._pulling = False
        self._platform_refused = False
        """Whether the verdict is on the platform; it stays until something else is typed."""

    def compose(self) -> ComposeResult:
        """Image, platform, the known platforms, and the verdict."""
        with Vertical(classes="dialog"):
            yield Plain("Pull an image into the cache", classes="dialog--title")
            yield Plain("")
            yield Plain("Image", classes="label")
            yield TextLine(
                self._image,
                id="image",
                compact=True,
                placeholder="library/nginx:1.27",
                select_on_focus=self._replaces,
            )
            yield Plain("Platform", classes="label", id="platform-label")
            yield TextLine(
                self._platform,
                id="platform",
                compact=True,
                placeholder="that of the engine's machine, such as linux/amd64",
                select_on_focus=False,
            )
            yield RowList((Column("", 20), Column("", weight=1)), id="platforms", header=False)
            yield Plain("", classes="pull--verdict")
            yield Plain("enter pulls   down: platforms   esc pulls nothing", classes="pull--keys")

    def on_mount(self) -> None:
        """Focus the image, or the platform where the image has its full name."""
        is_complete = (
            self._image and not self._replaces and not self._image.endswith(("/", ":", "*"))
        )
        self.query_one("#platform" if is_complete else "#image").focus()
        self._judge_soon()

    @property
    def _typed_image(self) -> str:
        return self.query_one("#image", Input).value.strip()

    @on(Input.Changed, "#image")
    def _image_changed(self) -> None:
        self._judge_soon()

    @work(exclusive=True, group="match", exit_on_error=False)
    async def _judge_soon(self) -> None:
        """Show which rule applies to what is typed, and which platforms its index has."""
        await asyncio.sleep(TYPING_PAUSE)
        image = self._typed_image
        if image == self._judged or not image:
            return
        self._judged = image
        try:
            match = await self.app.client.rules.match(image)
        except ClientError:
            # The name is incomplete; the pull itself says what is wrong.
            match = None
        self._show_platforms(await self._cached_tag(match))
        if self._platform_refused:
            return
        if match is None:
            self._show_verdict("")
        elif match.rule is None:
            self._show_verdict(match.why_not or "", refused=True)
        else:
            self._show_verdict(
                f"{match.rule} gets it from {match.source_repository}; {match_state(match)}."
            )

    async def _cached_tag(self, match: RuleMatch | None) -> TagDetail | None:
        if (
            match is None
            or match.repository is None
            or match.tag is None
            or match.cached_state is CachedState.NOT_CACHED
        ):
            return None
        try:
            return await self.app.client.repositories.get_tag(match.repository, match.tag)
        except ClientError:
            # It was deleted meanwhile.
            return None

    def _show_platforms(self, detail: TagDetail | None) -> None:
        rows: dict[str, Row] = {}
        for image in detail.images if detail is not None else ():
            # An index may have several versions of Windows of one name: a pull takes the first.
            if image.attests is None and image.platform and image.platform not in rows:
                state, tone = CACHED_LABELS[image.cached_state], CACHED_TONES[image.cached_state]
                rows[image.platform] = Row(
                    image.platform, (Cell(image.platform), Cell(state, tone))
                )
        platforms = self.query_one("#platforms", RowList)
        platforms.styles.height = max(1, min(MAX_PLATFORM_ROWS, len(rows)))
        platforms.set_class(bool(rows), "-shown")
        platforms.set_rows(list(rows.values()))

    def _show_verdict(self, text: str, *, refused: bool = False) -> None:
        line = self.query_one(".pull--verdict", Plain)
        line.set_class(refused, "-refused")
        line.update(text)

    def key_down(self) -> None:
        """Go from the platform to the known ones."""
        if self.query_one("#platform").has_focus and self.query_one("#platforms", RowList).total:
            self.query_one("#platforms").focus()

    @on(Input.Changed, "#platform")
    def _platform_changed(self) -> None:
        if self._platform_refused:
            self._platform_refused = False
            self._show_verdict("")

    @on(Input.Submitted, "#image")
    def _image_submitted(self) -> None:
        self.query_one("#platform").focus()

    @on(Input.Submitted, "#platform")
    def _platform_submitted(self, event: Input.Submitted) -> None:
        self._pull(event.value.strip())

    @on(RowList.Opened, "#platforms")
    def _platform_selected(self, event: RowList.Opened) -> None:
        self._pull(event.row.key)

    @work(exit_on_error=False)
    async def _pull(self, platform: str) -> None:
        if self._pulling or not self._typed_image:
            return
        try:
            if platform:
                Platform.parse(platform)
        except PlatformInvalid as error:
            self._platform_refused = True
            self._show_verdict(error.message, refused=True)
            self.query_one("#platform").focus()
            return
        self._pulling = True
        try:
            await self.app.client.pulls.start(
                self._typed_image, platform or None, asked_by="dashboard"
            )
        except ClientError as error:
            self._show_verdict(error.message, refused=True)
        else:
            self.dismiss(True)
        finally:
            self._pulling = False

    def action_cancel(self) -> None:
        """Pull nothing."""
        self.dismiss(False)
