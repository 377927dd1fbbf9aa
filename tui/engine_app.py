"""The application as its screens and wizards see it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.dom import DOMNode
from textual.worker import Worker

from entrepot.api.models import CredentialSetSnapshot
from tui.key_queue import KeyQueueApp
from tui.outcome import DashboardOutcome
from tui.polling import EnginePolling


class EngineApp(EnginePolling, KeyQueueApp[DashboardOutcome]):
    """What a screen needs of the application besides what Textual's has.

    `tui.app.Dashboard` implements it. Screens and wizards depend on this class and not on the
    dashboard, which imports them. It is a class and not a protocol because screens use the methods
    of Textual's application too.
    """

    demo_images: Sequence[str] = ()
    """Images that the source of a demo has; empty outside of a demo."""

    @property
    def address(self) -> str:
        """Where container clients find the registry."""
        return self.status.address if self.status is not None else "127.0.0.1:5000"

    @property
    def is_read_only(self) -> bool:
        """Whether nothing may be changed in the engine from here."""
        raise NotImplementedError

    def disabled_reason(self, action: str, node: DOMNode | None) -> str:
        """Why *action*, as a binding of *node* names it, is disabled; empty if not."""
        raise NotImplementedError

    async def show_area(self, area: str) -> None:
        """Go to an area by its title."""
        raise NotImplementedError

    async def show_filtered(self, area: str, text: str) -> None:
        """Go to an area and filter its list by *text*."""
        raise NotImplementedError

    async def show_row(self, area: str, key: str) -> None:
        """Go to an area and, as soon as it is loaded, to the row with *key*."""
        raise NotImplementedError

    def prompt_pull(self, image: str, platform: str | None = None) -> Worker[None]:
        """Ask which image of which platform to pull, then start the pull and show it."""
        raise NotImplementedError

    def copy_line(self, line: str, label: str = "") -> None:
        """Send a line, or a text that is called *label*, to the terminal's clipboard."""
        raise NotImplementedError

    def notify_health(self, credential_set: CredentialSetSnapshot) -> None:
        """Show how the last sign-in of a credential set went."""
        raise NotImplementedError

    def notify_first_sign_in(self, name: str) -> Worker[None]:
        """Show how the first sign-in of a new or changed credential set has ended."""
        raise NotImplementedError

    def report_fault(self, error: BaseException) -> None:
        """Show and log an error of the dashboard itself, once for each error."""
        raise NotImplementedError
