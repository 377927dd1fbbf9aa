"""TOML documents written by hand: a clear error or none, never a traceback."""

from __future__ import annotations

import contextlib
from datetime import UTC
from pathlib import Path

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from entrepot.config.directories import Directories
from entrepot.config.document_files import DocumentInvalid
from entrepot.config.documents import Documents
from entrepot.config.settings import Settings
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import read_import
from entrepot.errors import EntrepotError
from tests.scenarios.fuzz.conftest import Watch, examples
from tui.app import Dashboard
from tui.keymap import read_keymap
from tui.options import read_options

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
VALUE = st.one_of(
    TEXT,
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [
            "5m",
            "9" * 5000 + "d",
            "10%",
            "1e400 GB",
            "0.0.0.0:0",
            "[::1]:5000",
            "x:99999",
            "docker.io",
            "library/*",
            "*",
            "a" * 300,
            "ctrl+c",
            "optional",
            "env:X",
        ]
    ),
    st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)),
    st.lists(TEXT, max_size=3),
)
KEYS = st.sampled_from(
    [
        *(
            "listen",
            "freshness",
            "negative_freshness",
            "size_limit",
            "low_water",
            "connect_timeout",
            "read_timeout",
            "read_only",
            "ca_file",
            "proxy",
            "endpoint",
            "sign_in",
        ),
        *(
            "name",
            "source_repository",
            "target_repository",
            "credential_set",
            "login_server",
            "username_id",
            "password_id",
            "created",
            "display_name",
            "token_file",
        ),
        *(
            "theme",
            "ascii",
            "mouse",
            "read_only",
            "rule.delete",
            "look",
            "quit",
            "certificate",
            "key",
        ),
    ]
)
TABLES = st.sampled_from(
    [
        "rules",
        "credential_sets",
        "upstreams",
        "management",
        "keys",
        "docker.io",
        "rule",
        "credential_set",
        "cache_rule",
    ]
)
TABLE = st.dictionaries(KEYS | TEXT, VALUE, max_size=5)
DOCUMENT = st.dictionaries(
    st.one_of(KEYS, TABLES, TEXT),
    st.one_of(
        VALUE, TABLE, st.lists(TABLE, max_size=4), st.dictionaries(TABLES | TEXT, TABLE, max_size=2)
    ),
    max_size=5,
).map(lambda document: tomli_w.dumps(document).encode())
BROKEN = st.one_of(
    st.sampled_from(
        [
            b"a = " + b"[" * 50_000,
            b"a." * 5000 + b"b = 1",
            b"a = " + b"9" * 10_000,
            b"\xef\xbb\xbfa = 1",
            b"a = 1\r",
            b'a = "\\uD800"',
            b"[[a]]\n[a]\n",
            b"\0",
            b"a = {" * 10_000,
        ]
    ),
    st.binary(max_size=80),
    st.tuples(DOCUMENT, st.integers(0, 200), st.binary(max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    ),
)
DOCUMENTS = st.one_of(DOCUMENT, DOCUMENT, BROKEN)


def _check_message(error: EntrepotError) -> None:
    assert error.message
    assert error.code


@examples(150)
@given(DOCUMENTS)
def test_settings_are_taken_or_refused(tmp_path: Path, watch: Watch, content: bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    with watch.example():
        try:
            Settings.load(file)
        except EntrepotError as error:
            _check_message(error)


@examples(100)
@given(DOCUMENTS, DOCUMENTS)
async def test_rules_and_credential_sets_are_taken_or_refused(
    tmp_path: Path, watch: Watch, rules: bytes, credential_sets: bytes
) -> None:
    directories = Directories.under(tmp_path / "e")
    directories.config.mkdir(parents=True, exist_ok=True)
    directories.rules.write_bytes(rules)
    directories.credentials.write_bytes(credential_sets)
    with watch.example(), contextlib.suppress(DocumentInvalid):
        await Documents(directories, SourceRegistries()).load()


@examples(80)
@given(DOCUMENTS)
def test_an_import_is_planned_or_refused(watch: Watch, content: bytes) -> None:
    registries = SourceRegistries()
    documents = Documents(Directories.under(Path("/nonexistent")), registries)
    with watch.example():
        rule_import = read_import(
            content.decode(errors="replace"), documents.rules, documents.credential_sets
        )
        assert rule_import.entries or rule_import.problems


@examples(60)
@given(DOCUMENTS)
def test_keys_and_options_of_the_dashboard_are_taken_or_named(
    tmp_path: Path, watch: Watch, content: bytes
) -> None:
    file = tmp_path / "dashboard.toml"
    file.write_bytes(content)
    with watch.example():
        keymap = read_keymap(file, Dashboard)
        assert all(keymap.problems)
        options = read_options(file, tmp_path / "kept")
        assert all(options.problems)
