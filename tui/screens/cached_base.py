"""What the screens of repositories, tags and images do alike: pull, refresh, lock, delete, copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.binding import Binding

from entrepot.api.client import ClientError, EngineRefused
from entrepot.api.models import RepositoryDetail, TagSnapshot
from entrepot.formatting import short_digest, size
from tui.key_queue import opens_screen
from tui.presentation.copies import copy_lines
from tui.presentation.deletion import refused_text, repository_plan_text, tag_plan_text
from tui.presentation.repositories import refreshed_text
from tui.screens.base import ListScreen
from widgets.dialogs.question import Choice, Question
from widgets.dialogs.select import Option, SelectDialog


@dataclass(frozen=True, slots=True)
class ImageSubject:
    """What an action is done to: a repository, or one of its tags, or the image of one of its
    platforms."""

    repository: str
    tag: str | None = None
    digest: str | None = None
    """Of what the tag points to, or of the image of the platform."""
    platform: str | None = None
    locked: bool = False

    @property
    def name(self) -> str:
        """As one would pull it."""
        return self.repository if self.tag is None else f"{self.repository}:{self.tag}"


class CachedScreen(ListScreen):
    """A list of what is held."""

    FOR_A_ROW = frozenset({"delete", "copy", "lock", "refresh"})
    CHANGES = frozenset({"pull", "delete", "lock", "refresh", "evict"})

    PULL: ClassVar[Binding] = Binding(
        "p", "pull", "pull", tooltip="Pull an image into the cache, of the platform that is wanted"
    )
    REFRESH: ClassVar[Binding] = Binding(
        "r",
        "refresh",
        "refresh",
        tooltip="Ask the source now where the tag points, however fresh it is",
    )
    COPY: ClassVar[Binding] = Binding(
        "y", "copy", "copy", tooltip="Copy a line for docker, podman, skopeo or containerd"
    )
    LOCK: ClassVar[Binding] = Binding(
        "l", "lock", "lock", tooltip="Keep it from eviction and deletion, or no longer"
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
        client = self.app.client
        if subject.locked:
            text = "It may then be evicted, and deleted."
            choices = (Choice("keep", "Keep it locked"), Choice("unlock", "Unlock", danger=True))
            if (
                await self.app.push_screen_wait(Question(f"Unlock {subject.name}?", text, choices))
                != "unlock"
            ):
                return
        try:
            await (client.repositories.unlock if subject.locked else client.repositories.lock)(
                subject.repository, subject.tag
            )
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        else:
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
        tag = subject.tag or await self._tag_used_last(subject.repository)
        self.app.prompt_pull(f"{subject.repository}:{tag or 'latest'}", platform=subject.platform)

    @work(exit_on_error=False)
    async def action_refresh(self) -> None:
        """Ask the source where a tag points now; where it has moved, offer to pull it."""
        subject = self.subject
        tag = await self._chosen_tag(subject) if subject is not None else None
        if subject is None or tag is None:
            return
        image = f"{subject.repository}:{tag}"
        self.app.notify(f"Asking the source about {image} ...", timeout=2)
        try:
            done = await self.app.client.repositories.refresh_tag(image)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return
        self.poll_now()
        told, is_new = refreshed_text(done)
        if not is_new or not self.is_current:
            self.app.notify(
                told, severity="warning" if done.problem is not None or done.gone else "information"
            )
            return
        text = f"{told}\n\nOnly its manifest was fetched. The layers come with the next pull; what was held before stays pullable by its digest."
        choices = (Choice("later", "Not now"), Choice("pull", "Pull it"))
        if await self.app.push_screen_wait(Question(f"Pull {image} now?", text, choices)) == "pull":
            self.app.prompt_pull(image)

    async def _chosen_tag(self, subject: ImageSubject) -> str | None:
        """The tag; of a repository the only one, or the one that is chosen."""
        if subject.tag is not None:
            return subject.tag
        detail = await self._detail_of(subject.repository)
        if detail is None:
            return None
        if len(detail.tags) == 1:
            return detail.tags[0].name
        if not detail.tags:
            self.app.notify(
                f"{subject.repository} holds no tag, only manifests that were asked for by their digests.",
                severity="warning",
            )
            return None
        options = [Option(each.name, each.name, short_digest(each.digest)) for each in detail.tags]
        used = _used_last(detail.tags)
        return await self.app.push_screen_wait(
            SelectDialog(
                f"Which tag of {subject.repository}?",
                "",
                options,
                selected=used.name if used is not None else None,
            )
        )

    async def _tag_used_last(self, repository: str) -> str | None:
        detail = await self._detail_of(repository)
        used = _used_last(detail.tags) if detail is not None else None
        return used.name if used is not None else None

    async def _detail_of(self, repository: str) -> RepositoryDetail | None:
        try:
            return await self.app.client.repositories.get(repository)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return None

    @opens_screen()
    async def action_copy(self) -> None:
        """Copy a line for another terminal."""
        subject = self.subject
        if subject is None:
            return
        reference = subject.tag or await self._tag_used_last(subject.repository) or "latest"
        lines = copy_lines(
            self.app.address, subject.repository, reference, subject.platform, subject.digest
        )
        options = [
            Option(
                each.tool,
                each.tool,
                preview="\n\n".join(part for part in (each.line, each.needs) if part),
            )
            for each in lines
        ]
        about = f" for {subject.platform}" if subject.platform else ""
        chosen = await self.app.push_screen_wait(
            SelectDialog(
                f"Copy how to get {subject.repository}:{reference}{about}",
                "",
                options,
                verb="copies it",
            )
        )
        if chosen is not None:
            self.app.copy_line(next(each.line for each in lines if each.tool == chosen))

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete it, after what goes and what stays was shown. What takes data from the disk wants
        its name typed."""
        subject = self.subject
        if subject is None:
            return
        client, what = self.app.client, "cached repository" if subject.tag is None else "tag"
        try:
            if subject.tag is None:
                plan = await client.repositories.preview_delete(subject.repository)
            else:
                plan = await client.repositories.preview_delete_tag(subject.repository, subject.tag)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return
        if plan.refused is not None:
            await self.app.push_screen_wait(
                Question(
                    f"{subject.name} can't be deleted now",
                    refused_text(plan),
                    (Choice("keep", "Keep it"),),
                )
            )
            return
        text = repository_plan_text(plan) if subject.tag is None else tag_plan_text(plan)
        typed = subject.name if subject.tag is None or plan.freed else None
        choices = (Choice("keep", "Keep it"), Choice("delete", "Delete", danger=True))
        if (
            await self.app.push_screen_wait(
                Question(f"Delete the {what} {subject.name}?", text, choices, typed=typed)
            )
            != "delete"
        ):
            return
        try:
            if subject.tag is None:
                await client.repositories.delete(subject.repository)
            else:
                await client.repositories.delete_tag(subject.repository, subject.tag)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        else:
            freed = f": {size(plan.freed)} freed" if plan.freed else ""
            self.app.notify(f"The {what} {subject.name} is deleted{freed}.")
        self.poll_now()


class OpenedScreen(CachedScreen):
    """What is behind a row of such a list. It leaves when that is not there any more."""

    def refused(self, error: EngineRefused) -> None:
        """It was deleted meanwhile. What stands above this screen is finished first."""
        if self.app.screen is self:
            self.app.notify(error.message)
            self.dismiss()


def _used_last(tags: tuple[TagSnapshot, ...]) -> TagSnapshot | None:
    return max(tags, key=lambda each: (each.last_pull or 0.0, each.cached), default=None)
