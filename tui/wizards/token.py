"""The wizard for a personal token, which it shows once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.errors import EngineRefused
from entrepot.api.models import Problem, RuleSnapshot
from entrepot.api.reader_models import CreatedToken, ReaderList, TokenSnapshot
from entrepot.core.readers import GROUP_SIGN, Reader, parse_reader_name
from entrepot.core.tokens import parse_groups, parse_lifetime
from entrepot.errors import Refusal
from entrepot.formatting import counted
from tui.presentation.access import login_command, plain_http_remark
from tui.presentation.drafts import COMMAND_WIDTH, token_command
from tui.presentation.reader_choices import parse_names
from tui.presentation.readers import NEW_RULES, groups_text, readable_rules
from tui.presentation.status import day, join_names
from tui.wizards.wizard import Entry, Feedback, ReviewText, Wizard, show_all_rows
from widgets.dialogs.question import Choice, Question
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

READER, EXPIRY, REVIEW, TOKEN = range(4)

NEVER, OTHER = "never", "other"

LIFETIMES = (
    ("90d", "90 days"),
    ("30d", "30 days"),
    ("365d", "a year"),
)
"""What a token is valid for, as the API takes it and in words; the first is proposed."""


def _problem(refusal: Refusal) -> Problem:
    return Problem(code=refusal.code, message=refusal.message, field=refusal.field)


class TokenWizard(Wizard[str | None]):
    """Reader, expiry, review, token; returns the name of the reader of a created token."""

    wizard_title = "New personal token"
    steps = ("Reader", "Expiry", "Review", "Token")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that does the same; once it is created, the token",
            id="wizard.token.copy",
        ),
        Binding(
            "l",
            "copy_login",
            "copy login",
            tooltip="Copy the command with which the reader signs in",
            id="wizard.token.copy-login",
        ),
    ]
    DEFAULT_CSS = """
    TokenWizard {
        & .entry .label-before { width: 11; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._readers: ReaderList | None = None
        self._tokens: Sequence[TokenSnapshot] = ()
        self._rules: Sequence[RuleSnapshot] = ()
        self._created: CreatedToken | None = None
        self._is_copied = False

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == READER:
            yield Plain("Who signs in with the token?", classes="question")
            with Horizontal(classes="entry"):
                yield Plain("Name", classes="label-before")
                yield Entry(id="token-name", max_length=80, placeholder="ci")
            yield Feedback(id="token-name-feedback", classes="-close")
            with Horizontal(classes="entry"):
                yield Plain("Groups", classes="label-before")
                yield Entry(id="token-groups", placeholder="ops, web; empty for none")
            yield Feedback(id="token-groups-feedback", classes="-close")
            yield Plain(
                "A token is the password of one reader: a person, a machine or a pipeline. Give "
                "each its own, so that one can be revoked without the others.\n"
                "A rule names who may read what it caches: readers by name, groups with "
                f"{GROUP_SIGN} in front. A rule that names none is read by all who sign in.",
                classes="teach",
            )
        elif number == EXPIRY:
            yield Plain("For how long is the token valid?", classes="question")
            yield RowList((Column("", 22), Column("", weight=1)), id="lifetimes", header=False)
            with Horizontal(classes="entry", id="lifetime-entry"):
                yield Plain("For:  ")
                yield Entry(id="lifetime", placeholder="14d, 12h or 30min")
            yield Feedback(id="lifetime-feedback", classes="-close")
            yield Plain(
                "It can't be extended later: create another one and put it in its place. It can "
                "be revoked at any time, at once.",
                classes="teach",
            )
        elif number == REVIEW:
            yield Plain("Nothing is created yet. Is this what you want?", classes="question roomy")
            yield ReviewText(id="token-review")
            yield Feedback(id="token-review-feedback", classes="-close")
        else:
            yield Plain("", classes="question", id="token-question")
            yield ReviewText(id="token-text")

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#token-name", "#lifetimes", "#token-review", "#token-text")[number]

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == READER:
            is_name = self.focused is not None and self.focused.id == "token-name"
            return "groups" if is_name else "next"
        return {REVIEW: "create", TOKEN: "close"}.get(self.current, "next")

    def back_word(self) -> str:
        """What escape does now; once the token is created there is no way back."""
        return "close" if self.current == TOKEN else super().back_word()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys for copying work where no letter is typed."""
        if action == "copy":
            return self.current in {REVIEW, TOKEN}
        return self.current == TOKEN if action == "copy_login" else True

    def action_copy(self) -> None:
        """Copy the token, or before it is created the command."""
        if self._created is None:
            self.app.copy_line(self._command())
        else:
            self._is_copied = True
            self.app.copy_line(self._created.secret)

    def action_copy_login(self) -> None:
        """Copy the command with which the reader signs in."""
        self.app.copy_line(login_command(self._reader_name, self.app.address))

    # What was entered

    @property
    def _reader_name(self) -> str:
        return self.query_one("#token-name", Input).value.strip()

    @property
    def _groups(self) -> tuple[str, ...]:
        return tuple(
            name.removeprefix(GROUP_SIGN)
            for name in parse_names(self.query_one("#token-groups", Input).value)
        )

    @property
    def _lifetime(self) -> str:
        """The lifetime as the API takes it; empty while it is not typed."""
        row = self.query_one("#lifetimes", RowList).current
        selected = row.key if row is not None else LIFETIMES[0][0]
        return self.query_one("#lifetime", Input).value.strip() if selected == OTHER else selected

    def _command(self, width: int = COMMAND_WIDTH) -> str:
        return token_command(
            self._reader_name,
            None if self._lifetime == NEVER else self._lifetime,
            self._groups,
            width=width,
        )

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill in a step with what follows from those before it."""
        client = self.app.client
        if number == READER:
            self._readers = await client.readers.list()
            self._tokens = await client.readers.tokens()
        elif number == EXPIRY:
            self._show_lifetimes()
        elif number == REVIEW:
            self._rules = await client.rules.list()
            self.query_one("#token-review-feedback", Feedback).show(None)
            self.query_one("#token-review", ReviewText).show(self._review())
        elif self._created is not None:
            self._show_token(self._created)

    def _show_lifetimes(self) -> None:
        row_list = self.query_one("#lifetimes", RowList)
        if row_list.rows:
            return
        now = time.time()
        rows = [
            Row(id, (Cell(title, "accent"), Cell(f"until {_last_day(id, now)}", "dim")))
            for id, title in LIFETIMES
        ]
        rows += [
            Row(NEVER, (Cell("without end", "accent"), Cell("until it is revoked", "dim"))),
            Row(OTHER, (Cell("another time", "accent"), Cell("you type it", "dim"))),
        ]
        show_all_rows(rows, row_list)
        self.query_one("#lifetime-entry").display = False

    def _known_reader(self) -> Reader:
        """The reader of the token, with the groups that settings.toml gives it too."""
        name = self._reader_name
        known = next(
            (
                reader.groups
                for reader in (self._readers.readers if self._readers is not None else ())
                if reader.name == name
            ),
            (),
        )
        return Reader(name, frozenset((*known, *self._groups)))

    def _review(self) -> Text:
        name, lifetime = self._reader_name, self._lifetime
        reader = self._known_reader()
        groups = f", a member of {groups_text(sorted(reader.groups))}," if reader.groups else ""
        until = (
            "until it is revoked"
            if lifetime == NEVER
            else f"until {_last_day(lifetime, time.time())}"
        )
        allow = self._readers is not None and self._readers.anonymous_may_read
        rules = readable_rules(self._rules, reader, allow_anonymous=allow)
        may_read = (
            f"{len(rules):,} of {counted(len(self._rules), 'rule')}: "
            f"{join_names(rules, limit=NEW_RULES)}"
            if rules
            else "no rule yet"
        )
        text = Text(f"{name}{groups} signs in with it {until}.\nIt may read {may_read}.\n\n")
        text.append("The same as a command (y copies):\n", "dim")
        text.append(f"{self._command(self.text_width)}\n\n")
        return text.append(
            "The token is shown once, in the next step. Only its hash is stored.", "dim"
        )

    def _show_token(self, created: CreatedToken) -> None:
        expires = created.token.expires
        until = f"until {day(expires)}" if expires is not None else "until it is revoked"
        self.query_one("#token-question", Plain).update(
            f"The token of {created.token.name} is created, valid {until}. "
            "Store it now: it is not shown again."
        )
        login = login_command(created.token.name, self.app.address)
        text = Text().append("The token (y copies):\n", "dim")
        text.append(f"{created.secret}\n\n", "bold")
        text.append("Sign in with (l copies):\n", "dim").append(f"{login}\n")
        text.append("At the prompt for the password, paste the token.\n", "dim")
        if "HOST:" in login:
            text.append("HOST is the name by which clients reach this machine.\n", "dim")
        if self.app.status is not None and not self.app.status.has_tls:
            text.append(f"\n{plain_http_remark(self.app.address)}", "dim")
        self.query_one("#token-text", ReviewText).show(text)

    # Verdicts

    async def validate(self) -> bool:
        """Judge what was entered in this step, as the engine does."""
        if self.current == READER:
            name_valid = self._validate_name()
            return self._validate_groups() and name_valid
        if self.current == EXPIRY:
            return self._validate_lifetime()
        if self.current == REVIEW:
            # An engine that does not answer is shown until it does.
            self._tokens = await self.app.client.readers.tokens()
        return True

    def _validate_name(self) -> bool:
        name, feedback = self._reader_name, self.query_one("#token-name-feedback", Feedback)
        if not name:
            feedback.show(None)
            return False
        try:
            parse_reader_name(name, what="token")
        except Refusal as refusal:
            feedback.show(_problem(refusal))
            return False
        if any(token.name.casefold() == name.casefold() for token in self._tokens):
            feedback.show(
                Problem(
                    code="TokenAlreadyExists",
                    message=f"There is a personal token {name} already. Choose another name, or "
                    "revoke it first.",
                    field="name",
                )
            )
            return False
        has_password = self._readers is not None and any(
            reader.name == name and reader.password for reader in self._readers.readers
        )
        feedback.show(
            None,
            ok="" if has_password else "Name available",
            remarks=(f"{name} has a password too, and can sign in with both.",)
            if has_password
            else (),
        )
        return True

    def _validate_groups(self) -> bool:
        feedback = self.query_one("#token-groups-feedback", Feedback)
        try:
            parse_groups(self._groups)
        except Refusal as refusal:
            feedback.show(_problem(refusal))
            return False
        readers = self._readers.readers if self._readers is not None else ()
        known = sorted({group for reader in readers for group in reader.groups})
        feedback.show(
            None,
            remarks=(
                f"Known groups: {join_names([f'@{group}' for group in known], limit=NEW_RULES)}",
            )
            if known
            else (),
        )
        return True

    def _validate_lifetime(self) -> bool:
        row = self.query_one("#lifetimes", RowList).current
        self.query_one("#lifetime-entry").display = row is not None and row.key == OTHER
        feedback = self.query_one("#lifetime-feedback", Feedback)
        lifetime = self._lifetime
        if not lifetime:
            feedback.show(None)
            return False
        try:
            parse_lifetime(lifetime)
        except Refusal as refusal:
            feedback.show(_problem(refusal))
            return False
        feedback.show(
            None,
            remarks=("A token that leaks then works until somebody notices.",)
            if lifetime == NEVER
            else (f"Until {_last_day(lifetime, time.time())}",)
            if row is not None and row.key == OTHER
            else (),
        )
        return True

    # Going on

    async def advance_within_step(self, number: int) -> bool:
        """Go from the name to the groups, and to the field for another time."""
        if number == READER and self.focused is self.query_one("#token-name"):
            if self._validate_name():
                self.query_one("#token-groups").focus()
            return True
        if number == EXPIRY and self.focused is self.query_one("#lifetimes"):
            row = self.query_one("#lifetimes", RowList).current
            if row is not None and row.key == OTHER:
                self.query_one("#lifetime-entry").display = True
                self.query_one("#lifetime").focus()
                return True
        return False

    def is_last(self, number: int) -> bool:
        """The review creates the token; the token itself ends the wizard."""
        return number >= REVIEW

    @property
    def enter_commits(self) -> bool:
        """Enter creates the token, and closes what is shown once."""
        return self.current >= REVIEW

    async def submit(self) -> None:
        """Create the token, or close once it was stored."""
        if self.current == TOKEN:
            self.action_quit_wizard()
            return
        try:
            self._created = await self.app.client.readers.create_token(
                self._reader_name, expires=self._lifetime, groups=self._groups
            )
        except EngineRefused as error:
            self.query_one("#token-review-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            return
        await self.go_to(TOKEN)
        # A second enter must not close what is shown once.
        self.app.discard_keys()

    async def action_back(self) -> None:
        """One step back; once the token is created, close."""
        if self.current == TOKEN:
            self.action_quit_wizard()
        else:
            await super().action_back()

    def may_return_to(self, number: int) -> bool:
        """Not once the token is created."""
        return self._created is None

    def outcome(self) -> str | None:
        """The name of the reader, if a token was created."""
        return self._created.token.name if self._created is not None else None

    @work(exclusive=True, group="quit", exit_on_error=False)
    async def action_quit_wizard(self) -> None:
        """Quit. A token that was not copied is lost then, so ask first."""
        if self._created is not None and self._is_copied:
            self.dismiss(self.outcome())
            return
        if self._created is None and not self.has_entries():
            self.dismiss(None)
            return
        title, text = (
            ("Quit the wizard?", "What you entered here is lost. Nothing has been created.")
            if self._created is None
            else (
                "Have you stored the token?",
                "It is not shown again. If it is lost, revoke it and create another.",
            )
        )
        answer = await self.app.push_screen_wait(
            Question(title, text, (Choice("stay", "Stay"), Choice("quit", "Quit", danger=True)))
        )
        if answer == "quit":
            self.dismiss(self.outcome())

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()


def _last_day(lifetime: str, now: float) -> str:
    seconds = parse_lifetime(lifetime)
    return day(now + seconds) if seconds is not None else "it is revoked"
