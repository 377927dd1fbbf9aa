"""A tag, opened into the images of its platforms and their layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from entrepot.api.labels import image_name
from entrepot.api.models import TagDetail, TagImage
from entrepot.formatting import short_digest
from tui.presentation.images import (
    blob_facts,
    blob_kind,
    blob_lines,
    blob_row,
    blobs,
    image_facts,
    image_lines,
    image_row,
    tag_title,
)
from tui.screens.cached_base import CachedScreen, ImageSubject, OpenedScreen
from widgets.bars import update_line
from widgets.detail import Detail
from widgets.row_list import Column, Row, RowList
from widgets.text import Plain

LOW_TERMINAL = 20
"""Lines below which a terminal has no room for long details."""


class TagScreen(OpenedScreen[TagImage]):
    """The platforms of one tag, and the layers of the current one."""

    area = "Repositories"
    thing = "platform"
    DEFAULT_CSS = """
    TagScreen {
        & .lists > Vertical { height: 1fr; }
        & #layers-title { height: 1; margin-top: 1; padding: 0 1; text-style: bold; }
        &.-short #layers-title { margin-top: 0; }
        & #list:blur > .row-list--cursor, & #layers:blur > .row-list--cursor { text-style: none; }
    }
    """
    VERTICAL_BREAKPOINTS = [(0, "-short"), (LOW_TERMINAL, "-tall")]  # noqa: RUF012 (as in Textual)
    FOR_A_ROW = frozenset({"copy"})
    empty_text = "Nothing is known of what this tag points to."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", tooltip="Back to the platforms, or to the tags"),
        Binding(
            "tab",
            "other_list",
            "layers",
            tooltip="From the platforms to the layers, and back",
            id="tag.layers",
        ),
        replace(CachedScreen.PULL, id="tag.pull"),
        replace(CachedScreen.REFRESH, id="tag.refresh"),
        replace(CachedScreen.COPY, id="tag.copy"),
        replace(CachedScreen.LOCK, id="tag.lock"),
        Binding(
            "d",
            "delete",
            "delete",
            tooltip="Delete the tag; what goes and what stays is shown first",
            id="tag.delete",
        ),
    ]

    def __init__(self, repository: str, tag: str) -> None:
        super().__init__()
        self._repository = repository
        self._tag = tag
        self._detail: TagDetail | None = None

    def lists(self) -> ComposeResult:
        """Platforms above, layers below."""
        with Vertical():
            yield RowList(
                (
                    Column("Platform", weight=1),
                    Column("State", 13),
                    Column("Size", 9, right=True),
                    Column("Cached", 9, right=True, needs=70),
                    Column("Used", 6, right=True),
                ),
                id="list",
            )
            yield Plain("", id="layers-title")
            yield RowList(
                (
                    Column("Digest", 12),
                    Column("Kind", 11, needs=70),
                    Column("Size", 9, right=True),
                    Column("State", 10),
                    Column("Shared with", weight=1),
                ),
                id="layers",
            )

    @property
    def layer_list(self) -> RowList:
        """The layers of the current platform."""
        return self.query_one("#layers", RowList)

    async def load(self) -> Sequence[TagImage]:
        """The images of the tag's platforms."""
        detail = await self.app.client.repositories.get_tag(self._repository, self._tag)
        if detail != self._detail:
            self._detail = detail
            # A row says something of the tag too.
            self._loaded = None
            update_line(self.query_one(".title--name", Plain), tag_title(detail))
        return detail.images

    def key(self, model: TagImage) -> str:
        """The digest of its manifest."""
        return model.digest

    def row(self, model: TagImage) -> Row:
        """Its row."""
        assert self._detail is not None
        return image_row(model, self._detail, time.time)

    def show_rows(self, rows: list[Row]) -> None:
        """Show the platforms, and the layers of the current one."""
        super().show_rows(rows)
        self._fit()
        self._show_layers()

    def _fit(self) -> None:
        """Give the platforms the lines that they need, but at most a third of the screen."""
        lines = self.row_list.total + 1
        self.row_list.styles.height = max(3, min(lines, self.size.height // 3))

    def on_resize(self, _: events.Resize | None = None) -> None:
        """Share the lines between the lists again."""
        self._fit()

    def _show_layers(self) -> None:
        image, detail = self.current, self._detail
        title, rows = "", list[Row]()
        if image is not None and detail is not None:
            name = image_name(image, detail)
            if image.layers:
                title = f"Layers of {name}"
                rows = [blob_row(blob, image, number) for number, blob in enumerate(blobs(image))]
            else:
                title = (
                    f"The layers of {name} are not known: its manifest is not cached. p pulls it."
                )
        update_line(self.query_one("#layers-title", Plain), title)
        self.layer_list.set_rows(rows)

    @on(RowList.Moved, "#list")
    def _platform_changed(self) -> None:
        self._show_layers()

    @on(RowList.Moved, "#layers")
    def _layer_changed(self) -> None:
        self._show_detail()

    def on_descendant_focus(self) -> None:
        """Show the details of the list that has the focus."""
        self._show_detail()

    def detail(self, model: TagImage) -> Detail:
        """The layer, or the image, in sentences and facts."""
        if self._detail is None:
            return Detail()
        layer = self.layer_list.current
        if self.layer_list.has_focus and layer is not None and int(layer.key) < len(blobs(model)):
            blob = blobs(model)[int(layer.key)]
            return Detail(
                f"{blob_kind(blob, model)} {short_digest(blob.digest)}",
                self._fitting(blob_lines(blob, model)),
                blob_facts(blob, model),
            )
        now = time.time()
        return Detail(
            image_name(model, self._detail),
            self._fitting(image_lines(model, self._detail, now)),
            image_facts(model, self._detail, now),
        )

    def _fitting(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        """Only the last line on a low terminal, where the layers need the room."""
        return lines[-1:] if self.size.height < LOW_TERMINAL else lines

    @property
    def subject(self) -> ImageSubject | None:
        """The tag, and the platform under the cursor."""
        detail, image = self._detail, self.current
        if detail is None:
            return None
        platform = (
            image.platform
            if image is not None and image.attests is None and detail.is_index
            else None
        )
        digest = image.digest if image is not None else detail.tag.digest
        return ImageSubject(self._repository, self._tag, digest, platform, detail.tag.locked)

    @on(RowList.Opened, "#list")
    def action_other_list(self) -> None:
        """From the platforms to the layers, and back."""
        (self.row_list if self.layer_list.has_focus else self.layer_list).focus()

    def action_back(self) -> None:
        """Close the filter, or go from the layers to the platforms, or back to the tags."""
        if self.query_one(".filter").has_class("-open"):
            self.action_clear_filter()
        elif self.layer_list.has_focus:
            self.row_list.focus()
        else:
            self.dismiss()
