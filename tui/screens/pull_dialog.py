"""Asks which image to pull and of which platform, and says on the way which rule it comes through
and which platforms there are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from entrepot.api.client import ClientError
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

SHOWN = 6
"""Platforms that are shown at once; the list scrolls."""


class PullDialog(Dialog[bool]):
    """Gives whether a pull has begun. A refusal of the engine is shown in place."""

    DEFAULT_CSS = f"""
    PullDialog {{ {DIALOG_CSS} {SCROLLING_CSS}
        & RowList {{ background: $surface; display: none; }}
        & RowList.-shown {{ display: block; }}
        & .label {{ height: 1; }}
        & .pull--word {{ height: auto; min-height: 1; margin-top: 1; color: $text-muted; }}
        & .pull--word.-refused {{ color: $error; }}
        & .pull--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .pull--keys, &.-low .pull--word, &.-low Input {{ margin: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    app: EngineApp

    def __init__(self, image: str, platform: str | None = None, *, replaces: bool = False) -> None:
        """*replaces*: the image is only proposed, and the first letter that is typed takes its
        place."""
        super().__init__()
        self._replaces = replaces
        self._image = image
        self._platform = platform or ""
        self._asked = ""
        self._pulling = False
        self._platform_refused = False
        """Whether the word says that what is typed is no platform; it stays until something else is
        typed."""

    def compose(self) -> ComposeResult:
        """Image, platform, the platforms that are known, and a word."""
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
            yield Plain("", classes="pull--word")
            yield Plain("enter pulls   down: platforms   esc pulls nothing", classes="pull--keys")

    def on_mount(self) -> None:
        """Begin at the image, or at the platform where the image is named whole."""
        is_whole = self._image and not self._replaces and not self._image.endswith(("/", ":", "*"))
        self.query_one("#platform" if is_whole else "#image").focus()
        self._look()

    @property
    def _named(self) -> str:
        return self.query_one("#image", Input).value.strip()

    @on(Input.Changed, "#image")
    def _image_changed(self) -> None:
        self._look()

    @work(exclusive=True, group="match", exit_on_error=False)
    async def _look(self) -> None:
        """Say which rule answers for what is named so far, and which platforms its index has."""
        await asyncio.sleep(TYPING_PAUSE)
        image = self._named
        if image == self._asked or not image:
            return
        self._asked = image
        try:
            found = await self.app.client.rules.match(image)
        except ClientError:
            # It is typed only half; the pull itself says what is wrong.
            found = None
        self._show_platforms(await self._held(found))
        if self._platform_refused:
            return
        if found is None:
            self._say("")
        elif found.rule is None:
            self._say(found.why_not or "", refused=True)
        else:
            self._say(f"{found.rule} gets it from {found.source_repository}; {match_state(found)}.")

    async def _held(self, found: RuleMatch | None) -> TagDetail | None:
        if (
            found is None
            or found.repository is None
            or found.tag is None
            or found.holding is CachedState.NOT_CACHED
        ):
            return None
        try:
            return await self.app.client.repositories.get_tag(found.repository, found.tag)
        except ClientError:
            # It went meanwhile.
            return None

    def _show_platforms(self, detail: TagDetail | None) -> None:
        of_platform: dict[str, Row] = {}
        for each in detail.images if detail is not None else ():
            # An index may have several versions of Windows of one name: a pull takes the first.
            if each.attests is None and each.platform and each.platform not in of_platform:
                word, tone = CACHED_LABELS[each.holding], CACHED_TONES[each.holding]
                of_platform[each.platform] = Row(
                    each.platform, (Cell(each.platform), Cell(word, tone))
                )
        rows = list(of_platform.values())
        shown = self.query_one("#platforms", RowList)
        shown.styles.height = max(1, min(SHOWN, len(rows)))
        shown.set_class(bool(rows), "-shown")
        shown.set_rows(rows)

    def _say(self, text: str, *, refused: bool = False) -> None:
        word = self.query_one(".pull--word", Plain)
        word.set_class(refused, "-refused")
        word.update(text)

    def key_down(self) -> None:
        """From the platform that is typed to those that are known."""
        if self.query_one("#platform").has_focus and self.query_one("#platforms", RowList).total:
            self.query_one("#platforms").focus()

    @on(Input.Changed, "#platform")
    def _platform_changed(self) -> None:
        if self._platform_refused:
            self._platform_refused = False
            self._say("")

    @on(Input.Submitted, "#image")
    def _on_to_platform(self) -> None:
        self.query_one("#platform").focus()

    @on(Input.Submitted, "#platform")
    def _typed(self, event: Input.Submitted) -> None:
        self._pull(event.value.strip())

    @on(RowList.Opened, "#platforms")
    def _chosen(self, event: RowList.Opened) -> None:
        self._pull(event.row.key)

    @work(exit_on_error=False)
    async def _pull(self, platform: str) -> None:
        if self._pulling or not self._named:
            return
        try:
            if platform:
                Platform.parse(platform)
        except PlatformInvalid as error:
            self._platform_refused = True
            self._say(error.message, refused=True)
            self.query_one("#platform").focus()
            return
        self._pulling = True
        try:
            await self.app.client.pulls.start(self._named, platform or None, asked_by="dashboard")
        except ClientError as error:
            self._say(error.message, refused=True)
        else:
            self.dismiss(True)
        finally:
            self._pulling = False

    def action_cancel(self) -> None:
        """Pull nothing."""
        self.dismiss(False)
