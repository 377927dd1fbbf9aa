"""A tag, opened into the images of its platforms and their layers."""

from __future__ import annotations

import time
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

LOW = 20
"""Lines below which a terminal has no room for long details."""


class TagScreen(OpenedScreen):
    """The platforms of one tag, and the layers of the one under the cursor."""

    area = 3
    thing = "platform"
    DEFAULT_CSS = """
    TagScreen {
        & .lists > Vertical { height: 1fr; }
        & #layers-title { height: 1; margin-top: 1; padding: 0 1; text-style: bold; }
        &.-short #layers-title { margin-top: 0; }
        & #list:blur > .row-list--cursor, & #layers:blur > .row-list--cursor { text-style: none; }
    }
    """
    VERTICAL_BREAKPOINTS = [(0, "-short"), (LOW, "-tall")]  # noqa: RUF012 (Textual declares it so)
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
        self._seen: TagDetail | None = None

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
        """The layers of the platform under the cursor."""
        return self.query_one("#layers", RowList)

    async def fetch(self) -> None:
        """The tag with all that is behind it."""
        detail = await self.app.client.repositories.get_tag(self._repository, self._tag)
        if detail == self._seen:
            self.show_again()
            return
        self._seen = detail
        update_line(self.query_one(".title--name", Plain), tag_title(detail))
        self.show_rows([image_row(each, detail, time.time) for each in detail.images])
        self._fit()
        self._show_layers()

    @property
    def _image(self) -> TagImage | None:
        row = self.row_list.current
        if self._seen is None or row is None:
            return None
        return next((each for each in self._seen.images if each.digest == row.key), None)

    def _fit(self) -> None:
        """The platforms take the room that they need, but never more than a third."""
        wanted = self.row_list.total + 1
        self.row_list.styles.height = max(3, min(wanted, self.size.height // 3))

    def on_resize(self, _: events.Resize | None = None) -> None:
        """Share the room anew."""
        self._fit()

    def _show_layers(self) -> None:
        image = self._image
        told, rows = "", list[Row]()
        if image is not None and self._seen is not None and not image.layers:
            told = f"The layers of {image_name(image, self._seen)} are not known: its manifest is not here. p pulls it."
        elif image is not None and self._seen is not None:
            told = f"Layers of {image_name(image, self._seen)}"
            rows = [blob_row(each, image, number) for number, each in enumerate(blobs(image))]
        update_line(self.query_one("#layers-title", Plain), told)
        self.layer_list.set_rows(rows)

    @on(RowList.Moved, "#list")
    def _platform_changed(self) -> None:
        self._show_layers()

    @on(RowList.Moved, "#layers")
    def _layer_changed(self) -> None:
        self._show_detail()

    def on_descendant_focus(self) -> None:
        """Details are of the list that has the focus."""
        self._show_detail()

    def detail(self, row: Row) -> Detail:
        """The layer, or the image, in sentences and facts."""
        image, now = self._image, time.time()
        if image is None or self._seen is None:
            return Detail()
        layer = self.layer_list.current
        if self.layer_list.has_focus and layer is not None and int(layer.key) < len(blobs(image)):
            blob = blobs(image)[int(layer.key)]
            return Detail(
                f"{blob_kind(blob, image)} {short_digest(blob.digest)}",
                self._fitting(blob_lines(blob, image)),
                blob_facts(blob, image),
            )
        lines = self._fitting(image_lines(image, self._seen, now))
        return Detail(image_name(image, self._seen), lines, image_facts(image, self._seen, now))

    def _fitting(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        """On a low terminal the room belongs to the layers."""
        return lines[-1:] if self.size.height < LOW else lines

    @property
    def subject(self) -> ImageSubject | None:
        """The tag, and the platform under the cursor."""
        if self._seen is None:
            return None
        image = self._image
        platform = (
            image.platform
            if image is not None and image.attests is None and self._seen.is_index
            else None
        )
        digest = image.digest if image is not None else self._seen.tag.digest
        return ImageSubject(self._repository, self._tag, digest, platform, self._seen.tag.locked)

    @on(RowList.Opened, "#list")
    def action_other_list(self) -> None:
        """From the platforms to the layers, and back."""
        (self.row_list if self.layer_list.has_focus else self.layer_list).focus()

    def action_back(self) -> None:
        """Close the filter, or leave the layers, or go back to the tags."""
        if self.query_one(".filter").has_class("-open"):
            self.action_clear_filter()
        elif self.layer_list.has_focus:
            self.row_list.focus()
        else:
            self.dismiss()
