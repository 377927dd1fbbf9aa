"""The wizard for a credential set: a new one, or the identifiers of one that is there."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from entrepot.client import EngineRefused
from entrepot.snapshots import CredentialSetSnapshot, Problem, SignIn, UpstreamSnapshot
from tui.presentation import SIGN_IN
from tui.wizards.wizard import Feedback, Wizard, first_problem
from widgets.row_list import Cell, Column, Row, RowList

REGISTRY, SECRETS, REVIEW = range(3)

_TEACH_SECRETS = (
    "An identifier says where a secret is kept; the secret itself is never stored, shown or logged.\n"
    "  env:HUB_USER               an environment variable of the engine\n"
    "  file:/run/secrets/hub      a file that only the engine may read (mode 600)\n"
    "  keyring:SERVICE/USER       an entry of the system's keyring\n"
    "  https://VAULT.vault.azure.net/secrets/NAME   an Azure Key Vault\n"
    "  docker-config:username     what docker login has kept; for the other, :password\n"
    "  command:/usr/bin/hub-pass  the first line that a program prints\n"
    "The engine tries to sign in as soon as the set is made."
)


def cli_line(name: str, login_server: str, username_id: str, password_id: str) -> str:
    """The same as a command."""
    return f"entrepot credential-set create --name {name} \\\n    --login-server {login_server} --username-id {username_id} \\\n    --password-id {password_id}"


class CredentialSetWizard(Wizard[str | None]):
    """Registry, secrets, review. It gives the name of the set that was made or changed."""

    wizard_title = "Credential set"
    steps = ("Registry", "Secrets", "Review")
    DEFAULT_CSS = """
    CredentialSetWizard #set-review { margin: 1 0 0 2; height: auto; }
    """

    def __init__(self, *, login_server: str | None = None, existing: CredentialSetSnapshot | None = None) -> None:
        super().__init__()
        self._existing = existing
        self._fixed = existing.login_server if existing is not None else login_server
        self._upstreams: list[UpstreamSnapshot] = []
        self._proposed = ""
        self.current = SECRETS if self._fixed is not None else REGISTRY

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == REGISTRY:
            yield Static("Which source registry does it sign in to?", classes="question")
            yield RowList((Column("", weight=1), Column("", 26), Column("", 20)), id="registries", header=False)
            yield Static("For a registry with a star, type its own name:", classes="label", id="own-label")
            with Horizontal(classes="entry", id="own-entry"):
                yield Input(id="login-server", compact=True, select_on_focus=False)
            yield Feedback(id="registry-feedback")
        elif number == SECRETS:
            yield Static("", classes="question", id="secrets-question", markup=False)
            yield Static("User name", classes="label")
            with Horizontal(classes="entry"):
                yield Input(
                    self._existing.username_id if self._existing else "", id="username", compact=True, select_on_focus=False, placeholder="env:HUB_USER"
                )
            yield Feedback(id="username-feedback")
            yield Static("Password or token", classes="label")
            with Horizontal(classes="entry"):
                yield Input(
                    self._existing.password_id if self._existing else "",
                    id="password",
                    compact=True,
                    select_on_focus=False,
                    placeholder="file:/run/secrets/hub",
                )
            yield Feedback(id="password-feedback")
            yield Static(_TEACH_SECRETS, classes="teach", markup=False)
        else:
            yield Static("What shall it be called?" if self._existing is None else "This will be changed:", classes="question")
            with Horizontal(classes="entry"):
                yield Input(
                    self._existing.name if self._existing else "",
                    id="set-name",
                    compact=True,
                    select_on_focus=False,
                    max_length=60,
                    disabled=self._existing is not None,
                )
            yield Feedback(id="set-name-feedback")
            yield Static("", id="set-review", markup=False)

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#registries", "#username", "#set-name" if self._existing is None else None)[number]

    @property
    def _login_server(self) -> str:
        if self._fixed is not None:
            return self._fixed
        row = self.query_one("#registries", RowList).current
        if row is None:
            return ""
        return self.query_one("#login-server", Input).value.strip() if row.key.startswith("*.") else row.key

    @property
    def _username(self) -> str:
        return self.query_one("#username", Input).value.strip()

    @property
    def _password(self) -> str:
        return self.query_one("#password", Input).value.strip()

    @property
    def _set_name(self) -> str:
        return self.query_one("#set-name", Input).value.strip()

    async def prepare(self, number: int) -> None:
        """Fill a step in with what follows from those before it."""
        if number == REGISTRY and not self._upstreams:
            self._upstreams = [each for each in await self.app.client.upstreams() if each.sign_in is not SignIn.NONE]
            rows = [
                Row(each.login_server, (Cell(each.name, "accent"), Cell(each.login_server), Cell(SIGN_IN[each.sign_in], "dim"))) for each in self._upstreams
            ]
            self.query_one("#registries", RowList).set_rows(rows)
        elif number == SECRETS:
            self.query_one("#secrets-question", Static).update(f"Where are the user name and password for {self._login_server} kept?")
        elif number == REVIEW:
            name = self.query_one("#set-name", Input)
            if self._existing is None and name.value.strip() in {"", self._proposed}:
                name.value = self._proposed = f"{self._login_server.partition('.')[0]}-login"
            self._show_review()

    def _show_review(self) -> None:
        if self._existing is None:
            told = cli_line(self._set_name or "NAME", self._login_server, self._username, self._password)
        else:
            told = f"entrepot credential-set update --name {self._existing.name} \\\n    --username-id {self._username} --password-id {self._password}"
        self.query_one("#set-review", Static).update(told)

    async def check(self) -> bool:
        """Ask the engine about what has been entered up to this step."""
        step = self.current
        if step == REGISTRY:
            row = self.query_one("#registries", RowList).current
            pattern = row is not None and row.key.startswith("*.")
            self.query_one("#own-label").display = self.query_one("#own-entry").display = pattern
        checked = await self.app.client.check_credential_set(
            name=self._set_name if step == REVIEW and self._existing is None else None,
            login_server=self._login_server,
            username_id=self._username if step >= SECRETS else None,
            password_id=self._password if step >= SECRETS else None,
        )
        if step != self.current:
            return False
        if step == REGISTRY:
            return self._show(checked.problems, "#registry-feedback", ("loginServer",), needed=self._login_server)
        if step == SECRETS:
            first = self._show(checked.problems, "#username-feedback", ("usernameSecretIdentifier", "loginServer"), needed=self._username)
            second = self._show(checked.problems, "#password-feedback", ("passwordSecretIdentifier",), needed=self._password)
            return first and second
        self._show_review()
        return self._show(checked.problems, "#set-name-feedback", ("name", "loginServer", "usernameSecretIdentifier", "passwordSecretIdentifier"))

    def _show(self, problems: tuple[Problem, ...], feedback: str, fields: tuple[str, ...], *, needed: str = "x") -> bool:
        problem = first_problem(problems, fields)
        self.query_one(feedback, Feedback).show(problem if needed else None)
        return problem is None

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()

    async def goes_on_within(self, number: int) -> bool:
        """Enter in the user name goes to the password first."""
        if number != SECRETS or self.focused is not self.query_one("#username"):
            return False
        self.query_one("#password").focus()
        return True

    async def action_back(self) -> None:
        """One step back; out of the first one that this wizard asks for."""
        if self.current == SECRETS and self._fixed is not None:
            self.dismiss(None)
        else:
            await super().action_back()

    async def take(self) -> None:
        """Make or change the set."""
        try:
            if self._existing is None:
                await self.app.client.create_credential_set(self._set_name, self._login_server, self._username, self._password)
            else:
                await self.app.client.update_credential_set(self._existing.name, self._username, self._password)
        except EngineRefused as error:
            self.query_one("#set-name-feedback", Feedback).show(Problem(code=error.code, message=error.message, field=error.field))
            return
        self.dismiss(self._existing.name if self._existing is not None else self._set_name)
