"""The wizard for a credential set: a new one, or the identifiers of one that is there."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.client import ClientError, EngineRefused
from entrepot.api.models import CredentialSetSnapshot, Problem, SourceRegistrySnapshot, TriedSignIn
from entrepot.core.states import HealthStatus, SignIn
from tui.presentation.drafts import (
    COMMAND_WIDTH,
    credential_set_change_command,
    credential_set_command,
    credential_set_toml,
)
from tui.presentation.secrets import SECRET_KINDS, identifier_help, is_program
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

SIGNS_IN = {SignIn.OPTIONAL: "may sign in", SignIn.REQUIRED: "needs sign-in"}

OTHER = "other"
"""Stands for a source registry whose name is typed."""


def sign_in_result(name: str, tried: TriedSignIn) -> str:
    """How a sign-in went, in a sentence."""
    if tried.health is HealthStatus.HEALTHY:
        return f"The sign-in works: {name} is healthy."
    begin = (
        "The sign-in does not work"
        if tried.health is HealthStatus.UNHEALTHY
        else "Whether it can sign in is not known"
    )
    return f"{begin}: {tried.error_message}  {tried.error_code}"


class CredentialSetWizard(Wizard[str | None]):
    """Registry, secrets, review. It gives the name of the set that was made or changed."""

    wizard_title = "New credential set"
    steps = ("Registry", "Secrets", "Review")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "c",
            "try",
            "try it",
            tooltip="Sign in with it now, before it is made",
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
        self._upstreams: list[SourceRegistrySnapshot] = []
        self._proposed = ""
        self._field = "#username"
        """The field into which an example is put."""
        self.current = self.first = SECRETS if self._fixed is not None else REGISTRY
        if existing is not None:
            self.wizard_title = "Edit credential set"  # type: ignore[misc]

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == REGISTRY:
            yield Plain("Which source registry does it sign in to?", classes="question")
            yield RowList(
                (Column("", weight=1), Column("", 26), Column("", 13, needs=64)),
                id="registries",
                header=False,
            )
            with Horizontal(classes="entry", id="own-entry"):
                yield Plain("Its login server:  ")
                yield Entry(id="login-server", placeholder="registry.example.com")
            yield Feedback(id="registry-feedback")
            yield Plain(
                "A set is for one registry, and can't move to another later. Several rules can share it.",
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
                "Nothing is made yet. Is this what you want?"
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
            yield Feedback(id="tried", classes="-close")

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#registries", "#username", "#set-review")[number]

    # The keys, in the words of the moment

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == SECRETS:
            at = self.focused.id if self.focused is not None else None
            return {"username": "password", "kinds": "take this kind"}.get(at or "", "next")
        if self.current == REVIEW:
            return "make it" if self._existing is None else "change it"
        return "next"

    def tab_word(self) -> str:
        """Where tab goes."""
        at = self.focused.id if self.focused is not None else None
        if self.current == SECRETS:
            return {"username": "password", "password": "kinds"}.get(at or "", "fields")
        return ""

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
        self.app.copy_line(credential_set_toml(*self._review_of()))

    # What was entered

    @property
    def _login_server(self) -> str:
        if self._fixed is not None:
            return self._fixed
        row = self.query_one("#registries", RowList).current
        if row is None:
            return ""
        return (
            self.query_one("#login-server", Input).value.strip().lower()
            if self._types_server
            else row.key
        )

    @property
    def _types_server(self) -> bool:
        row = self.query_one("#registries", RowList).current
        return (
            self._fixed is None
            and row is not None
            and (row.key == OTHER or row.key.startswith("*."))
        )

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
        """The identifiers that are not what they were."""
        before = self._existing
        if before is None:
            return self._username, self._password
        return (
            self._username if self._username != before.username_id else None,
            self._password if self._password != before.password_id else None,
        )

    @property
    def _new_programs(self) -> str:
        """The programs that the engine would run and does not run yet, one a line."""
        return "\n".join(
            dict.fromkeys(each for each in self._changes if each is not None and is_program(each))
        )

    def _review_of(self) -> tuple[str, str, str, str]:
        return self._set_name or "NAME", self._login_server, self._username, self._password

    def _command(self, width: int = COMMAND_WIDTH) -> str:
        if self._existing is None:
            return credential_set_command(*self._review_of(), width=width)
        return credential_set_change_command(self._existing.name, *self._changes, width=width)

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill a step in with what follows from those before it."""
        if number == REGISTRY and not self._upstreams:
            self.query_one("#own-entry").display = False
            self._upstreams = [
                each
                for each in await self.app.client.system.source_registries()
                if each.sign_in is not SignIn.NONE
            ]
            rows = [
                Row(
                    each.login_server,
                    (
                        Cell(each.name, "accent"),
                        Cell(each.login_server),
                        Cell(SIGNS_IN[each.sign_in], "dim"),
                    ),
                )
                for each in self._upstreams
            ]
            rows.append(
                Row(
                    OTHER,
                    (
                        Cell("another registry", "accent"),
                        Cell("you type its name"),
                        Cell("", "dim"),
                    ),
                )
            )
            self.query_one("#registries", RowList).set_rows(rows)
        elif number == SECRETS:
            self.query_one("#secrets-question", Plain).update(
                f"Where are user name and password for {self._login_server} kept?"
            )
            self._offer_kinds()
        elif number == REVIEW:
            self.query_one("#tried", Feedback).show(None)
            name = self.query_one("#set-name", Input)
            if self._existing is None and name.value.strip() in {"", self._proposed}:
                taken = {
                    each.name.casefold() for each in await self.app.client.credential_sets.list()
                }
                name.value = self._proposed = proposed_name(self._login_server, taken)
            self._show_review()

    def _offer_kinds(self) -> None:
        """The kinds of identifiers, with examples for the field that has the focus."""
        rows = [
            Row(
                each.begins,
                (
                    Cell(each.password if self._field == "#password" else each.username, "accent"),
                    Cell(each.what, "dim"),
                ),
            )
            for each in SECRET_KINDS
        ]
        show_all_rows(rows, self.query_one("#kinds", RowList))

    def _show_kind(self) -> None:
        at = self.focused.id if self.focused is not None else ""
        if at == "kinds":
            row = self.query_one("#kinds", RowList).current
            told = identifier_help(row.key) if row is not None else ""
        else:
            told = identifier_help(self._password if self._field == "#password" else self._username)
        self.query_one("#kind-teach", Plain).update(told)

    def _show_review(self) -> None:
        name, login_server, username, password = self._review_of()
        told = Text()
        before = self._existing
        if before is None:
            told.append(f"It signs in to {login_server} with\n")
            for part, identifier in (("user name", username), ("password", password)):
                told.append(f"  {part:<10} {identifier}\n", "")
            told.append(
                "\nc tries to sign in with it now. The engine tries it too as soon as it is made.\n",
                "dim",
            )
            told.append("\nThe same as a command (y copies):\n", "dim").append(
                f"{self._command(self.text_width)}\n\n"
            )
            told.append("The same in credentials.toml (Y copies):\n", "dim").append(
                credential_set_toml(name, login_server, username, password)
            )
        else:
            for part, was, now in (
                ("User name", before.username_id, username),
                ("Password", before.password_id, password),
            ):
                told.append(f"{part}\n", "dim")
                if was == now:
                    told.append(f"  stays   {now}\n")
                else:
                    told.append(f"  before  {was}\n  after   {now}\n")
            used = (
                f"Rules that use it: {', '.join(before.used_by)}."
                if before.used_by
                else "No rule uses it."
            )
            told.append(f"\n{used} Name and registry can't be changed.\n", "dim")
            if any(self._changes):
                told.append("\nThe same as a command (y copies):\n", "dim").append(
                    self._command(self.text_width)
                )
        self.query_one("#set-review", ReviewText).show(told)

    # The engine's word

    async def check(self) -> bool:
        """Ask the engine about what has been entered up to this step."""
        step = self.current
        if step == REGISTRY:
            self.query_one("#own-entry").display = self._types_server
            if not self._login_server:
                self._teach_registry()
                return False
        if step == SECRETS:
            self._show_kind()
        checked = await self.app.client.credential_sets.validate(
            name=self._set_name if step == REVIEW and self._existing is None else None,
            login_server=self._login_server,
            username_id=self._username if step >= SECRETS else None,
            password_id=self._password if step >= SECRETS else None,
        )
        if step != self.current:
            return False
        if step == REGISTRY:
            fine = (
                f"Fine: {self._login_server} is a registry that rules may pull from."
                if self._types_server
                else ""
            )
            return self._show(checked.problems, "#registry-feedback", ("loginServer",), fine=fine)
        if step == SECRETS:
            first = self._show(
                checked.problems,
                "#username-feedback",
                ("usernameSecretIdentifier", "loginServer"),
                needed=self._username,
            )
            second = self._show(
                checked.problems,
                "#password-feedback",
                ("passwordSecretIdentifier",),
                needed=self._password,
            )
            return first and second
        self._show_review()
        nothing = (
            ""
            if any(self._changes)
            else "Nothing is different from before; enter leaves it as it is."
        )
        well = self._show(
            checked.problems,
            "#set-name-feedback",
            ("name", "loginServer", "usernameSecretIdentifier", "passwordSecretIdentifier"),
            remark=nothing,
        )
        if (
            not well
            and first_problem(checked.problems, ("name",)) is not None
            and self.focused is self.query_one("#set-review")
        ):
            self.query_one("#set-name").focus()
        return well

    def _teach_registry(self) -> None:
        remark = "Press tab and type the login server of your registry. One beyond this list has to be declared in settings.toml by the administrator."
        self.query_one("#registry-feedback", Feedback).show(
            None, remarks=(remark,) if self._types_server else ()
        )

    def _show(
        self,
        problems: tuple[Problem, ...],
        feedback: str,
        fields: tuple[str, ...],
        *,
        needed: str = "x",
        fine: str = "",
        remark: str = "",
    ) -> bool:
        problem = first_problem(problems, fields)
        well = problem is None
        self.query_one(feedback, Feedback).show(
            problem if needed else None, fine if well else "", (remark,) if well and remark else ()
        )
        return well

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()

    def on_descendant_focus(self) -> None:
        """The examples are for the field that was left last."""
        at = self.focused.id if self.focused is not None else None
        if self.current == SECRETS and at in {"username", "password"}:
            self._field = f"#{at}"
            self._offer_kinds()
        if self.current == SECRETS:
            self._show_kind()

    async def advance_within_step(self, number: int) -> bool:
        """Enter in the user name goes to the password first; on a kind it begins an identifier of
        that kind."""
        if (
            number == REGISTRY
            and self._types_server
            and self.focused is self.query_one("#registries")
        ):
            self.query_one("#own-entry").display = True
            self.query_one("#login-server").focus()
            return True
        if number == SECRETS and self.focused is self.query_one("#username"):
            self.query_one("#password").focus()
            return True
        if number == SECRETS and self.focused is self.query_one("#kinds"):
            self._take_kind()
            return True
        return False

    def _take_kind(self) -> None:
        row = self.query_one("#kinds", RowList).current
        field = self.query_one(self._field, Input)
        if row is not None:
            field.value = row.cells[0].text
            field.focus()
            field.cursor_position = len(field.value)

    # Trying, making

    @work(exclusive=True, group="try", exit_on_error=False)
    async def action_try(self) -> None:
        """Sign in with it, and say how that went. Nothing is kept of it."""
        feedback = self.query_one("#tried", Feedback)
        if not await confirm_programs(self.app, self._new_programs):
            return
        feedback.show(None, remarks=(f"Signing in to {self._login_server}...",))
        try:
            tried = await self.app.client.credential_sets.test_sign_in(*self._review_of())
        except EngineRefused as error:
            feedback.show(Problem(code=error.code, message=error.message, field=error.field))
        except ClientError as error:
            feedback.show(None)
            self.engine_lost(error)
        else:
            text = sign_in_result(self._set_name, tried)
            well = tried.health is HealthStatus.HEALTHY
            feedback.show(None, text if well else "", warning="" if well else text)

    async def take(self) -> None:
        """Make or change the set."""
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


def proposed_name(login_server: str, taken: set[str]) -> str:
    """A name made from the registry: ``docker-login`` for ``docker.io``; none of those *taken* (in
    one case)."""
    name = f"{login_server.strip('[').partition('.')[0].partition(':')[0][:40] or 'registry'}-login"
    number, proposed = 1, name
    while proposed.casefold() in taken:
        number += 1
        proposed = f"{name}-{number}"
    return proposed
