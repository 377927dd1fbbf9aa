"""What repositories and tags share: pull, refresh, lock, delete, copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.binding import Binding

from entrepot.api.errors import EngineRefused
from entrepot.api.models import RepositoryDetail, TagSnapshot
from entrepot.formatting import short_digest
from tui.key_queue import opens_screen
from tui.presentation.copies import copy_lines
from tui.presentation.deletion import repository_plan_text, tag_plan_text
from tui.presentation.repositories import refreshed_text
from tui.screens.base import ListScreen, Model
from tui.screens.deletion import Deletion, delete_after_question
from widgets.dialogs.question import Choice, Question
from widgets.dialogs.select import Option, SelectDialog


@dataclass(frozen=True, slots=True)
class ImageSubject:
    """What an action is about: a repository, a tag, or the image of a platform."""

    repository: str
    tag: str | None = None
    digest: str | None = None
    """Of what the tag points to, or of the image of the platform."""
    platform: str | None = None
    locked: bool = False

    @property
    def name(self) -> str:
        """The name to pull it by."""
        return self.repository if self.tag is None else f"{self.repository}:{self.tag}"


class CachedScreen(ListScreen[Model]):
    """A list of cached repositories or of what is in them."""

    FOR_A_ROW = frozenset({"delete", "copy", "lock", "refresh"})
    CHANGES = frozenset({"pull", "delete", "lock", "refresh", "evict"})

    PULL: ClassVar[Binding] = Binding(
        "p", "pull", "pull", tooltip="Pull an image into the cache, for one platform"
    )
    REFRESH: ClassVar[Binding] = Binding(
        "r",
        "refresh",
        "refresh",
        tooltip="Ask the source now where the tag points, before its lifetime ends",
    )
    COPY: ClassVar[Binding] = Binding(
        "y", "copy", "copy", tooltip="Copy a line for docker, podman, skopeo or containerd"
    )
    LOCK: ClassVar[Binding] = Binding(
        "l", "lock", "lock", tooltip="Lock it against eviction and deletion, or unlock it"
    )

    @property
    def subject(self) -> ImageSubject | None:
        """What is under the cursor."""
        return None

    @opens_screen()
    async def action_lock(self) -> None:
        """Lock it; or unlock it, after a question."""
        subject = self.subject
        if subject is None:
            return
        client = self.app.client.repositories
        if subject.locked:
            answer = await self.app.push_screen_wait(
                Question(
                    f"Unlock {subject.name}?",
                    "It may then be evicted, and deleted.",
                    (Choice("keep", "Keep it locked"), Choice("unlock", "Unlock", danger=True)),
                )
            )
            if answer != "unlock":
                return
        change = client.unlock if subject.locked else client.lock
        if await self.app.succeeds(change(subject.repository, subject.tag)):
            self.app.notify(
                f"{subject.name} is unlocked."
                if subject.locked
                else f"{subject.name} is locked: it is neither evicted nor deleted."
            )
        self.poll_now()

    @opens_screen()
    async def action_pull(self) -> None:
        """Pull it, or another image."""
        subject = self.subject
        if subject is None:
            self.app.prompt_pull("")
            return
        tag = subject.tag or await self._last_used_tag(subject.repository)
        self.app.prompt_pull(f"{subject.repository}:{tag or 'latest'}", platform=subject.platform)

    @work(exit_on_error=False)
    async def action_refresh(self) -> None:
        """Ask the source where a tag points now; where it has moved, offer to pull it."""
        subject = self.subject
        tag = await self._choose_tag(subject) if subject is not None else None
        if subject is None or tag is None:
            return
        image = f"{subject.repository}:{tag}"
        self.app.notify(f"Asking the source about {image} ...", timeout=2)
        refreshed = await self.app.attempt(self.app.client.repositories.refresh_tag(image))
        if refreshed is None:
            return
        self.poll_now()
        text, is_new = refreshed_text(refreshed)
        if not is_new or not self.is_current:
            is_warning = refreshed.problem is not None or refreshed.gone
            self.app.notify(text, severity="warning" if is_warning else "information")
            return
        answer = await self.app.push_screen_wait(
            Question(
                f"Pull {image} now?",
                f"{text}\n\nOnly its manifest was fetched. The layers come with the next pull; "
                "what was cached before stays pullable by its digest.",
                (Choice("later", "Not now"), Choice("pull", "Pull it")),
            )
        )
        if answer == "pull":
            self.app.prompt_pull(image)

    async def _choose_tag(self, subject: ImageSubject) -> str | None:
        """The tag of *subject*; of a repository the only one, or the one selected."""
        if subject.tag is not None:
            return subject.tag
        detail = await self._repository_detail(subject.repository)
        if detail is None:
            return None
        if len(detail.tags) == 1:
            return detail.tags[0].name
        if not detail.tags:
            self.app.notify(
                f"{subject.repository} has no tag, only manifests that were pulled by digest.",
                severity="warning",
            )
            return None
        options = [Option(tag.name, tag.name, short_digest(tag.digest)) for tag in detail.tags]
        last_used = _last_used(detail.tags)
        return await self.app.push_screen_wait(
            SelectDialog(
                f"Which tag of {subject.repository}?",
                "",
                options,
                selected=last_used.name if last_used is not None else None,
            )
        )

    async def _last_used_tag(self, repository: str) -> str | None:
        detail = await self._repository_detail(repository)
        last_used = _last_used(detail.tags) if detail is not None else None
        return last_used.name if last_used is not None else None

    async def _repository_detail(self, repository: str) -> RepositoryDetail | None:
        return await self.app.attempt(self.app.client.repositories.get(repository))

    @opens_screen()
    async def action_copy(self) -> None:
        """Copy a line for another terminal."""
        subject = self.subject
        if subject is None:
            return
        reference = subject.tag or await self._last_used_tag(subject.repository) or "latest"
        lines = copy_lines(
            self.app.address, subject.repository, reference, subject.platform, subject.digest
        )
        options = [
            Option(
                line.tool,
                line.tool,
                preview="\n\n".join(part for part in (line.line, line.needs) if part),
            )
            for line in lines
        ]
        platform = f" for {subject.platform}" if subject.platform else ""
        tool = await self.app.push_screen_wait(
            SelectDialog(
                f"Copy how to get {subject.repository}:{reference}{platform}",
                "",
                options,
                verb="copies it",
            )
        )
        if tool is not None:
            self.app.copy_line(next(line.line for line in lines if line.tool == tool))

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete it, after showing what goes and what stays.

        A repository, and a tag whose deletion frees space, need their name typed.
        """
        subject = self.subject
        if subject is None:
            return
        client, repository, tag = self.app.client.repositories, subject.repository, subject.tag
        if tag is None:
            deletion = Deletion(
                "cached repository",
                subject.name,
                client.preview_delete(repository),
                repository_plan_text,
                lambda: client.delete(repository),
                typed_name=lambda _: True,
            )
        else:
            deletion = Deletion(
                "tag",
                subject.name,
                client.preview_delete_tag(repository, tag),
                tag_plan_text,
                lambda: client.delete_tag(repository, tag),
                typed_name=lambda plan: bool(plan.freed),
            )
        await delete_after_question(self, deletion)


class OpenedScreen(CachedScreen[Model]):
    """What is behind a row of such a list. It closes when that was deleted."""

    def handle_refusal(self, error: EngineRefused) -> None:
        """Close, unless another screen is on top: that one is finished first."""
        if self.app.screen is self:
            self.app.notify(error.message)
            self.dismiss()


def _last_used(tags: Sequence[TagSnapshot]) -> TagSnapshot | None:
    return max(tags, key=lambda tag: (tag.last_pull or 0.0, tag.cached), default=None)
