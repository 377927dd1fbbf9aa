"""The wizard to create a credential set, or to change its secret identifiers."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.errors import ClientError, EngineRefused
from entrepot.api.models import CredentialSetSnapshot, Problem, TriedSignIn
from entrepot.core.states import HealthStatus
from tui.presentation.drafts import (
    COMMAND_WIDTH,
    credential_set_change_command,
    credential_set_command,
    credential_set_toml,
)
from tui.presentation.secrets import SECRET_KINDS, identifier_help, is_program
from tui.wizards.registry_step import RegistryStep
from tui.wizards.wizard import (
    Entry,
    Feedback,
    ReviewText,
    Wizard,
    confirm_programs,
    first_problem,
    show_all_rows,
)
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

REGISTRY, SECRETS, REVIEW = range(3)


def sign_in_result(name: str, result: TriedSignIn) -> str:
    """How a sign-in went, in a sentence."""
    if result.health is HealthStatus.HEALTHY:
        return f"The sign-in works: {name} is healthy."
    begin = (
        "The sign-in does not work"
        if result.health is HealthStatus.UNHEALTHY
        else "Whether it can sign in is not known"
    )
    return f"{begin}: {result.error_message}  {result.error_code}"


class CredentialSetWizard(Wizard[str | None]):
    """Registry, secrets, review; returns the name of the created or changed set."""

    wizard_title = "New credential set"
    steps = ("Registry", "Secrets", "Review")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "c",
            "try",
            "try it",
            tooltip="Sign in with it now, before it is created",
            id="wizard.credential-set.try",
        ),
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that does the same",
            id="wizard.credential-set.copy",
        ),
        Binding(
            "Y",
            "copy_toml",
            "copy TOML",
            show=False,
            tooltip="Copy the set as an entry of credentials.toml",
            id="wizard.credential-set.copy-toml",
        ),
    ]
    DEFAULT_CSS = """
    CredentialSetWizard {
        & .entry .label-before { width: 11; }
        & #kinds { margin-top: 1; }
        &.-short #kinds { margin-top: 0; }
    }
    """

    def __init__(
        self, *, login_server: str | None = None, existing: CredentialSetSnapshot | None = None
    ) -> None:
        super().__init__()
        self._existing = existing
        self._fixed = existing.login_server if existing is not None else login_server
        self._registry_step = RegistryStep(self)
        self._proposed_name = ""
        self._field = "#username"
        """The field that a kind of secret is inserted into."""
        self.current = self.first = SECRETS if self._fixed is not None else REGISTRY
        if existing is not None:
            self.wizard_title = "Edit credential set"  # type: ignore[misc]

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == REGISTRY:
            yield from self._registry_step.compose("Which source registry does it sign in to?")
            yield Plain(
                "A set is for one registry, and can't move to another later. "
                "Several rules can share it.",
                classes="teach roomy",
            )
        elif number == SECRETS:
            before = self._existing
            yield Plain("", classes="question", id="secrets-question")
            with Horizontal(classes="entry"):
                yield Plain("User name", classes="label-before")
                yield Entry(
                    before.username_id if before else "", id="username", placeholder="env:HUB_USER"
                )
            yield Feedback(id="username-feedback", classes="-close")
            with Horizontal(classes="entry"):
                yield Plain("Password", classes="label-before")
                yield Entry(
                    before.password_id if before else "",
                    id="password",
                    placeholder="file:/run/secrets/hub-token",
                )
            yield Feedback(id="password-feedback", classes="-close")
            yield RowList(
                (Column("", weight=1), Column("", 24, needs=64)), id="kinds", header=False
            )
            yield Plain("", classes="teach", id="kind-teach")
        else:
            yield Plain(
                "Nothing is created yet. Is this what you want?"
                if self._existing is None
                else "Nothing is changed yet. Is this what you want?",
                classes="question roomy",
            )
            with Horizontal(classes="entry"):
                yield Plain("Name (tab)  " if self._existing is None else "Name  ")
                yield Entry(
                    self._existing.name if self._existing else "",
                    id="set-name",
                    max_length=60,
                    disabled=self._existing is not None,
                )
            yield Feedback(id="set-name-feedback", classes="-close")
            yield ReviewText(id="set-review")
            yield Feedback(id="sign-in-feedback", classes="-close")

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#registries", "#username", "#set-review")[number]

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == SECRETS:
            focused = self.focused.id if self.focused is not None else None
            return {"username": "password", "kinds": "insert this kind"}.get(focused or "", "next")
        if self.current == REVIEW:
            return "create" if self._existing is None else "change"
        return "next"

    def tab_word(self) -> str:
        """Where tab goes."""
        if self.current != SECRETS:
            return ""
        focused = self.focused.id if self.focused is not None else None
        return {"username": "password", "password": "kinds"}.get(focused or "", "fields")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys of the review work where no letter is typed."""
        if action in {"copy", "copy_toml", "try"}:
            return self.current == REVIEW and self.focused is not self.query_one("#set-name")
        return True

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_line(self._command())

    def action_copy_toml(self) -> None:
        """Copy the TOML."""
        self.app.copy_line(credential_set_toml(*self._draft()))

    # What was entered

    @property
    def _login_server(self) -> str:
        return self._fixed if self._fixed is not None else self._registry_step.login_server

    @property
    def _username(self) -> str:
        return self.query_one("#username", Input).value.strip()

    @property
    def _password(self) -> str:
        return self.query_one("#password", Input).value.strip()

    @property
    def _set_name(self) -> str:
        return self.query_one("#set-name", Input).value.strip()

    @property
    def _changes(self) -> tuple[str | None, str | None]:
        """User name and password identifiers; None for one that has not changed."""
        before = self._existing
        if before is None:
            return self._username, self._password
        return (
            self._username if self._username != before.username_id else None,
            self._password if self._password != before.password_id else None,
        )

    @property
    def _new_programs(self) -> str:
        """The programs that the engine does not run yet and would run, one a line."""
        return "\n".join(
            dict.fromkeys(
                identifier
                for identifier in self._changes
                if identifier is not None and is_program(identifier)
            )
        )

    def _draft(self) -> tuple[str, str, str, str]:
        return self._set_name or "NAME", self._login_server, self._username, self._password

    def _command(self, width: int = COMMAND_WIDTH) -> str:
        if self._existing is None:
            return credential_set_command(*self._draft(), width=width)
        return credential_set_change_command(self._existing.name, *self._changes, width=width)

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill in a step with what follows from those before it."""
        if number == REGISTRY:
            await self._registry_step.fill(signing_in=True)
        elif number == SECRETS:
            self.query_one("#secrets-question", Plain).update(
                f"Where are user name and password for {self._login_server} kept?"
            )
            self._show_kinds()
        elif number == REVIEW:
            self.query_one("#sign-in-feedback", Feedback).show(None)
            name = self.query_one("#set-name", Input)
            if self._existing is None and name.value.strip() in {"", self._proposed_name}:
                sets = await self.app.client.credential_sets.list()
                names = {credential_set.name.casefold() for credential_set in sets}
                name.value = self._proposed_name = proposed_name(self._login_server, names)
            self._show_review()

    def _show_kinds(self) -> None:
        """Show the kinds of identifiers, with examples for the current field."""
        rows = [
            Row(
                kind.begins,
                (
                    Cell(kind.password if self._field == "#password" else kind.username, "accent"),
                    Cell(kind.what, "dim"),
                ),
            )
            for kind in SECRET_KINDS
        ]
        show_all_rows(rows, self.query_one("#kinds", RowList))

    def _show_kind_help(self) -> None:
        if self.focused is not None and self.focused.id == "kinds":
            row = self.query_one("#kinds", RowList).current
            text = identifier_help(row.key) if row is not None else ""
        else:
            is_password = self._field == "#password"
            text = identifier_help(self._password if is_password else self._username)
        self.query_one("#kind-teach", Plain).update(text)

    def _show_review(self) -> None:
        existing = self._existing
        self.query_one("#set-review", ReviewText).show(
            self._review_of_new() if existing is None else self._review_of_change(existing)
        )

    def _review_of_new(self) -> Text:
        name, login_server, username, password = self._draft()
        text = Text(f"It signs in to {login_server} with\n")
        for part, identifier in (("user name", username), ("password", password)):
            text.append(f"  {part:<10} {identifier}\n")
        text.append(
            "\nc signs in with it now. The engine signs in too as soon as it is created.\n", "dim"
        )
        text.append("\nThe same as a command (y copies):\n", "dim")
        text.append(f"{self._command(self.text_width)}\n\n")
        text.append("The same in credentials.toml (Y copies):\n", "dim")
        return text.append(credential_set_toml(name, login_server, username, password))

    def _review_of_change(self, existing: CredentialSetSnapshot) -> Text:
        text = Text()
        for part, before, after in (
            ("User name", existing.username_id, self._username),
            ("Password", existing.password_id, self._password),
        ):
            text.append(f"{part}\n", "dim")
            if before == after:
                text.append(f"  stays   {after}\n")
            else:
                text.append(f"  before  {before}\n  after   {after}\n")
        used = (
            f"Rules that use it: {', '.join(existing.used_by)}."
            if existing.used_by
            else "No rule uses it."
        )
        text.append(f"\n{used} Name and registry can't be changed.\n", "dim")
        if any(self._changes):
            text.append("\nThe same as a command (y copies):\n", "dim")
            text.append(self._command(self.text_width))
        return text

    # The engine's verdict

    async def validate(self) -> bool:
        """Let the engine validate what was entered up to this step."""
        step = self.current
        if step == REGISTRY:
            self._registry_step.show_field(visible=self._registry_step.is_typed)
            if not self._login_server:
                self._explain_other_registry()
                return False
        if step == SECRETS:
            self._show_kind_help()
        verdict = await self.app.client.credential_sets.validate(
            name=self._set_name if step == REVIEW and self._existing is None else None,
            login_server=self._login_server,
            username_id=self._username if step >= SECRETS else None,
            password_id=self._password if step >= SECRETS else None,
        )
        if step != self.current:
            return False
        if step == REGISTRY:
            ok = (
                f"{self._login_server} is a registry that rules may pull from."
                if self._registry_step.is_typed
                else ""
            )
            return self._show(verdict.problems, "#registry-feedback", ("loginServer",), ok=ok)
        if step == SECRETS:
            is_username_valid = self._show(
                verdict.problems,
                "#username-feedback",
                ("usernameSecretIdentifier", "loginServer"),
                needed=self._username,
            )
            is_password_valid = self._show(
                verdict.problems,
                "#password-feedback",
                ("passwordSecretIdentifier",),
                needed=self._password,
            )
            return is_username_valid and is_password_valid
        self._show_review()
        is_valid = self._show(
            verdict.problems,
            "#set-name-feedback",
            ("name", "loginServer", "usernameSecretIdentifier", "passwordSecretIdentifier"),
            remark="" if any(self._changes) else "Nothing has changed; enter changes nothing.",
        )
        if (
            not is_valid
            and first_problem(verdict.problems, ("name",)) is not None
            and self.focused is self.query_one("#set-review")
        ):
            self.query_one("#set-name").focus()
        return is_valid

    def _explain_other_registry(self) -> None:
        remark = (
            "Press tab and type the login server of your registry. "
            "The administrator must declare one beyond this list in settings.toml."
        )
        self.query_one("#registry-feedback", Feedback).show(
            None, remarks=(remark,) if self._registry_step.is_typed else ()
        )

    def _show(
        self,
        problems: tuple[Problem, ...],
        feedback: str,
        fields: tuple[str, ...],
        *,
        needed: str = "x",
        ok: str = "",
        remark: str = "",
    ) -> bool:
        """Show the first problem of *fields*, unless the field is still empty (*needed*)."""
        problem = first_problem(problems, fields)
        is_valid = problem is None
        self.query_one(feedback, Feedback).show(
            problem if needed else None,
            ok if is_valid else "",
            (remark,) if is_valid and remark else (),
        )
        return is_valid

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()

    def on_descendant_focus(self) -> None:
        """Show the examples for the field that has the focus, or had it last."""
        focused = self.focused.id if self.focused is not None else None
        if self.current == SECRETS:
            if focused in {"username", "password"}:
                self._field = f"#{focused}"
                self._show_kinds()
            self._show_kind_help()

    async def advance_within_step(self, number: int) -> bool:
        """Go from the user name to the password; insert the prefix of a kind."""
        if number == REGISTRY:
            return self._registry_step.advance_to_field()
        if number == SECRETS and self.focused is self.query_one("#username"):
            self.query_one("#password").focus()
            return True
        if number == SECRETS and self.focused is self.query_one("#kinds"):
            self._insert_kind()
            return True
        return False

    def _insert_kind(self) -> None:
        row = self.query_one("#kinds", RowList).current
        field = self.query_one(self._field, Input)
        if row is not None:
            field.value = row.cells[0].text
            field.focus()
            field.cursor_position = len(field.value)

    # Signing in, creating

    @work(exclusive=True, group="try", exit_on_error=False)
    async def action_try(self) -> None:
        """Sign in with it, and show how that went. Nothing is stored."""
        feedback = self.query_one("#sign-in-feedback", Feedback)
        if not await confirm_programs(self.app, self._new_programs):
            return
        feedback.show(None, remarks=(f"Signing in to {self._login_server}...",))
        try:
            result = await self.app.client.credential_sets.test_sign_in(*self._draft())
        except EngineRefused as error:
            feedback.show(Problem(code=error.code, message=error.message, field=error.field))
        except ClientError as error:
            feedback.show(None)
            self.engine_lost(error)
        else:
            text = sign_in_result(self._set_name, result)
            is_healthy = result.health is HealthStatus.HEALTHY
            feedback.show(None, text if is_healthy else "", warning="" if is_healthy else text)

    async def submit(self) -> None:
        """Create or change the set."""
        if not await confirm_programs(self.app, self._new_programs):
            return
        try:
            if self._existing is None:
                await self.app.client.credential_sets.create(
                    self._set_name, self._login_server, self._username, self._password
                )
            elif any(self._changes):
                await self.app.client.credential_sets.update(self._existing.name, *self._changes)
        except EngineRefused as error:
            self.query_one("#set-name-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            return
        if any(self._changes):
            self.app.notify_first_sign_in(self._set_name)
        self.dismiss(self._set_name)


def proposed_name(login_server: str, names: set[str]) -> str:
    """A name made from the registry, such as ``docker-login`` for ``docker.io``.

    It is none of *names*, which are in lower case.
    """
    host = login_server.strip("[").partition(".")[0].partition(":")[0][:40]
    name = f"{host or 'registry'}-login"
    number, proposed = 1, name
    while proposed.casefold() in names:
        number += 1
        proposed = f"{name}-{number}"
    return proposed
