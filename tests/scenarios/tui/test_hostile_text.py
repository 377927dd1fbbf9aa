"""S04, S29, F65, F89: whatever names, messages and errors say, the dashboard shows it literally, in
place, and nothing of it is obeyed."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from rich.cells import cell_len
from textual.screen import ModalScreen

from entrepot.api import session as session_module
from entrepot.api.credential_sets import CredentialSetsClient
from entrepot.api.errors import EngineRefused
from entrepot.api.pulls import PullsClient
from entrepot.api.repositories import RepositoriesClient
from entrepot.api.rules import RulesClient
from entrepot.api.session import ApiSession
from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.hostile import HOSTILE, obeyed
from tests.tui.conftest import Person, dashboard, pulled
from tui.areas import AREAS

MARKUP = " [red]w[oops] [/oops] [@click=app.request_quit]y[/] [bold"
TAIL = f"{MARKUP}層\x1b[3;3H\x1b]0;t\x07\x9b31m\x9d0;t\x9c\r\n\u202eg\u2066"
LITERAL = "[red]"
"""What has to be read on every screen that shows something hostile."""

FIELDS = frozenset(
    {
        "name",
        "message",
        "error_message",
        "error_code",
        "source_repository",
        "target_repository",
        "login_server",
        "problem",
        "media_type",
        "repository",
        "tag",
        "platform",
        "rule",
        "what",
        "advice",
        "credential_set",
        "username_id",
        "password_id",
        "why_not",
        "why",
        "shared_with",
        "used_by",
        "asked_by",
        "tags",
        "notices",
        "refused",
        "repositories",
        "also_tagged",
        "platforms",
        "about",
        "check",
        "subject",
        "remarks",
    }
)
"""Fields of snapshots that hold text from outside, or that could."""


def _poisoned(value: Any, name: str = "") -> Any:
    if type(value) is str:
        return f"{value}{TAIL}" if name in FIELDS and value else value
    if isinstance(value, list | tuple):
        return type(value)(_poisoned(each, name) for each in value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(
            value,
            **{each: _poisoned(getattr(value, each), each) for each in value.__struct_fields__},
        )
    return value


def _healed(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(TAIL, "")
    if isinstance(value, dict):
        return {key: _healed(each) for key, each in value.items()}
    return value


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of which every name, message and error is hostile; it understands them when it is
    asked about them."""
    decoded, request, refused = session_module.decode, ApiSession.request, session_module.refusal

    def poison(content: bytes, kind: Any) -> Any:
        value = decoded(content, kind)
        return value if kind is session_module.ErrorBody else _poisoned(value)

    def refusal(content: bytes, status: int) -> EngineRefused:
        error = refused(content, status)
        return EngineRefused(
            error.code, f"{error.message}{TAIL}", field=error.field, status=error.status
        )

    async def heal(
        session: ApiSession,
        method: str,
        path: str,
        headers: dict[str, str],
        body: object = None,
        **options: Any,
    ) -> Any:
        for safe in ("", "/"):
            path = path.replace(quote(TAIL, safe=safe), "")
        return await request(session, method, path, headers, _healed(body), **options)

    monkeypatch.setattr(session_module, "decode", poison)
    monkeypatch.setattr(session_module, "refusal", refusal)
    monkeypatch.setattr(ApiSession, "request", heal)


@pytest.fixture
async def busy(engine: Engine, source: FakeRegistry, registry: httpx.AsyncClient) -> Engine:
    """Something to show everywhere: a rule, an unhealthy set, images, a pull that failed, one that
    was refused, and events."""
    await engine.credential_sets.create(
        CredentialSetDraft("example-login", LOGIN_SERVER, "env:NOT_SET_HERE", "env:NOT_SET_EITHER")
    )
    await engine.credential_sets.verify("example-login")
    source.add_image("library/nginx", "1.27", layers=[b"shared", b"own"])
    source.add_image("library/nginx", "1.28", layers=[b"shared"])
    await pulled(engine, "library/nginx:1.27")
    await pulled(engine, "library/nginx:1.28")
    await pulled(engine, "library/broken:1")
    return engine


@dataclass
class Walk:
    """A person who looks at what every key brings."""

    person: Person

    async def shows(self, *keys: str, sees: str = LITERAL) -> None:
        """Press keys one by one; what they bring holds *sees*, nothing that is obeyed, and nothing
        beyond the edge."""
        for key in keys:
            await self.person.press(key)
        try:
            await self.person.sees(sees)
        except AssertionError as error:
            raise AssertionError(f"{keys}: {error}") from None
        self.is_sound(keys)

    def is_sound(self, keys: object) -> None:
        app = self.person.app
        for line in app.screen._compositor.render_strips():
            assert obeyed(line.text) == [], keys
            assert cell_len(line.text) == app.size.width, (keys, line.text)
        # What would have been obeyed has left the dashboard, or is not shown as it is written.
        assert app.is_running, keys
        assert app.return_value is None, keys
        assert app.faults == [], keys
        assert not any(each.markup for each in app._notifications), keys

    async def opens(self, *keys: str) -> None:
        """Each key brings a dialog, or a wizard, which is left again. They are as wide in every
        terminal."""
        if self.person.app.size.width > 80:
            return
        below = self.person.app.screen
        for key in keys:
            await self.person.press(key)
            await self.person.until(
                lambda: self.person.app.screen is not below and self.person.app.screen.is_mounted
            )
            await self.shows()
            await self.person.press(
                "escape" if isinstance(self.person.app.screen, ModalScreen) else "ctrl+c"
            )
            await self.person.until(lambda: self.person.app.screen is below)

    async def notifies(self, *keys: str, sees: str = LITERAL) -> None:
        """Each key brings a notification, which goes again."""
        app = self.person.app
        if app.size.width > 80:
            return
        for key in keys:
            app.clear_notifications()
            await self.person.press(key)
            await self.person.until(
                lambda: any(sees in each.message for each in app._notifications)
            )
            await self.shows(sees="[oops")
        app.clear_notifications()
        await self.person.pilot.pause()


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_screen_shows_hostile_names_messages_and_errors_literally(
    busy: Engine, hostile: None, size: tuple[int, int]
) -> None:
    async with dashboard(busy, size=size) as person:
        walk = Walk(person)
        await walk.shows("1")
        await walk.shows("2")
        await walk.opens("s", "w", "y", "f", "d", "p", "n")
        await walk.shows("3")
        await walk.opens("d", "e")
        await walk.notifies("c", "y")
        await walk.shows("4")
        await walk.opens("y", "d", "p")
        await walk.notifies("l")
        await walk.opens("l")
        await walk.shows("enter", sees=":1.27")
        await walk.opens("y", "d", "p")
        await walk.notifies("r", "l")
        await walk.opens("l")
        await walk.shows("enter", sees="Layers of")
        await walk.opens("y", "d", "p")
        await walk.shows("tab")
        await walk.shows("5")
        await walk.notifies("y")
        await walk.shows("enter", sees="Failed after")
        # The same line again is shown for copying by hand.
        await walk.opens("y")
        for area in ("6", "7"):
            await walk.shows(area)
            await walk.opens("enter")
        await walk.notifies("y")


@pytest.mark.parametrize(
    ("part", "method", "keys"),
    [
        (PullsClient, "start", ["5", "r"]),
        (RulesClient, "validate", ["2", "n"]),
        (CredentialSetsClient, "validate", ["3", "n"]),
        (RulesClient, "match", ["2", "w", "x", "enter"]),
        (CredentialSetsClient, "list", ["3"]),
        (RulesClient, "preview_delete", ["2", "d"]),
        (RepositoriesClient, "refresh_tag", ["4", "enter", "r"]),
    ],
)
async def test_a_refusal_of_the_engine_is_shown_literally(
    busy: Engine, monkeypatch: pytest.MonkeyPatch, part: type, method: str, keys: list[str]
) -> None:
    """S29: some of these notifications took the engine's words for markup."""
    async with dashboard(busy) as person:

        async def refuse(*_: object, **__: object) -> None:
            raise EngineRefused("Odd", f"No. {TAIL}", field=None, status=400)

        monkeypatch.setattr(part, method, refuse)
        for key in keys:
            await person.press(key)
            await person.until(lambda: person.app.screen.is_mounted)
            if key.isdigit():
                # A narrow terminal shortens the longest.
                await person.sees(AREAS[int(key) - 1][:5])
        await Walk(person).shows(sees="[oops]")


async def test_a_file_of_hostile_names_is_planned_literally(
    engine: Engine, hostile: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = msgspec.json.encode(TAIL).decode()
    text = f'[[rules]]\nname = {name}\nsource_repository = "x"\ntarget_repository = "y"\n'
    (tmp_path / "odd\x9b31m\u202e.toml").write_text("")
    (tmp_path / "[red]odd[oops].toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    async with dashboard(engine) as person:
        walk = Walk(person)
        await person.press("2")
        await walk.shows("i")
        await person.press("tab")
        await walk.shows("enter", "enter", sees="Nothing can be created")
        await walk.shows("escape", sees="Which file")
        await person.press("ctrl+c")


@pytest.mark.parametrize(
    "text",
    ["x [/oops] y", "[red]a[/red]", "[@click=app.request_quit]y[/]", "[bold", f"a{HOSTILE}b"],
)
async def test_a_notification_is_shown_literally_even_if_markup_is_requested(
    person: Person, text: str
) -> None:
    for notify in (person.app.notify, person.app.screen.notify):
        person.app.clear_notifications()
        notify(text, title=text, markup=True)
        await person.sees(text.partition("\x1b")[0])
        Walk(person).is_sound(text)


async def test_a_line_that_is_typed_or_pasted_holds_nothing_that_can_not_be_printed(
    person: Person,
) -> None:
    await person.press("2", "slash")
    line = person.app.screen.query_one(".filter")
    line.value = f"a{HOSTILE}\tb"  # type: ignore[attr-defined]
    assert line.value.isprintable()  # type: ignore[attr-defined]
    assert line.value.startswith("a]0;OBEYED")  # type: ignore[attr-defined]


def _calls(folder: str) -> list[tuple[Path, ast.Call]]:
    calls = []
    for file in sorted((Path(__file__).parents[3] / folder).rglob("*.py")):
        calls += [
            (file, node)
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call)
        ]
    return calls


def test_no_widget_that_parses_markup_is_made_but_where_it_is_turned_off() -> None:
    """S29: there is one place for texts of a screen, and one for lines that are typed."""
    parsing = {
        "Static",
        "Label",
        "Input",
        "OptionList",
        "Markdown",
        "RichLog",
        "Log",
        "Tooltip",
        "Header",
        "from_markup",
    }
    for folder in ("tui", "widgets"):
        for file, call in _calls(folder):
            name = (
                call.func.id
                if isinstance(call.func, ast.Name)
                else call.func.attr
                if isinstance(call.func, ast.Attribute)
                else ""
            )
            assert name not in parsing, f"{file}:{call.lineno} makes a {name}"
            if name == "Button":
                first = call.args[0]
                assert isinstance(first, ast.Constant) or (
                    isinstance(first, ast.Call) and ast.unparse(first.func) == "Content"
                ), f"{file}:{call.lineno}"
