"""Changing who may read what a cache rule caches."""

from __future__ import annotations

from entrepot.api.errors import ClientError, EngineRefused
from entrepot.api.models import RuleSnapshot
from entrepot.api.session import NO_SUCH_ROUTE
from entrepot.core.readers import ReaderAccess
from tui.presentation.access import rule_readers
from tui.presentation.reader_choices import (
    NAMED,
    chosen,
    parse_names,
    reader_choices,
    unknown_names,
)
from tui.screens.base import EngineScreen
from widgets.dialogs.line_prompt import LinePrompt, LineVerdict
from widgets.dialogs.select import Option, SelectDialog

OLDER_ENGINE = "The engine is of an older version, whose rules have no readers."


def refusal_text(error: ClientError) -> str:
    """Why the readers of a rule can't be changed; an older engine has no such route."""
    is_older = isinstance(error, EngineRefused) and (
        error.code == NO_SUCH_ROUTE or error.status == 405
    )
    return OLDER_ENGINE if is_older else f"Not possible: {error.message}"


async def change_readers(screen: EngineScreen, rule: RuleSnapshot) -> bool:
    """Ask who may read, and change it; returns whether it was changed.

    Must be called in a worker.
    """
    app = screen.app
    client = app.client
    choices = {
        choice.id: choice
        for choice in reader_choices(
            anonymous_may_read=app.status is None or app.status.anonymous_may_read
        )
    }

    async def update(access: ReaderAccess) -> str:
        try:
            await client.rules.update(rule.name, readers=access.readers, anonymous=access.anonymous)
        except ClientError as error:
            return refusal_text(error)
        return ""

    async def submit(choice: str) -> str:
        access = choices[choice].access
        return await update(access) if access is not None else ""

    selected = await app.push_screen_wait(
        SelectDialog(
            f"Who may read what {rule.name} caches?",
            f"Now {rule_readers(rule)}. What a reader may not read does not exist for that reader.",
            [
                Option(choice.id, choice.title, choice.short, choice.why)
                for choice in choices.values()
            ],
            selected=chosen(rule),
            submit=submit,
        )
    )
    if selected is None or (selected == NAMED and not await _name_readers(screen, rule)):
        return False
    access = choices[selected].access
    if access is not None and app.status is not None:
        allow = app.status.anonymous_may_read
        app.notify(f"{rule.name} is read by {access.described(allow_anonymous=allow)}.")
    return True


async def _name_readers(screen: EngineScreen, rule: RuleSnapshot) -> bool:
    """Ask for the names of readers and groups; returns whether they were changed."""
    app = screen.app
    client = app.client
    readers = await app.attempt(client.readers.list())
    if readers is None:
        return False

    async def judge(text: str) -> LineVerdict:
        names = parse_names(text)
        if not names:
            return LineVerdict("Write at least one name, or press esc and choose another.", True)
        try:
            checked = await client.rules.validate(readers=names)
        except ClientError as error:
            return LineVerdict(refusal_text(error), refused=True)
        if checked.problems:
            return LineVerdict(f"Not possible: {checked.problems[0].message}", refused=True)
        return LineVerdict(
            unknown_names(names, readers) or f"Only {', '.join(names)} may read, from now on."
        )

    async def submit(text: str) -> LineVerdict:
        try:
            await client.rules.update(rule.name, readers=parse_names(text), anonymous=None)
        except ClientError as error:
            return LineVerdict(refusal_text(error), refused=True)
        return LineVerdict("")

    names = await app.push_screen_wait(
        LinePrompt(
            f"Which readers and groups may read what {rule.name} caches?",
            "Names with commas between them, groups with @ in front.",
            judge=judge,
            submit=submit,
            value=", ".join(rule.readers),
            hint="ci, @ops",
        )
    )
    if names is None:
        return False
    app.notify(f"{rule.name} is read by {', '.join(parse_names(names))}.")
    return True
