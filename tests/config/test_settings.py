from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from entrepot.config.settings import (
    ManagementOverTcp,
    Settings,
    SettingsInvalid,
    SizeLimit,
    TlsFiles,
    parse_listen,
    parse_size_limit,
)
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.core.states import SignIn
from tests.e2e.registries.certificates import Authority


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Settings.load(file)


def refused(tmp_path: Path, text: str) -> SettingsInvalid:
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "settings.toml") in caught.value.what
    assert caught.value.hint
    return caught.value


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert Settings.load(tmp_path / "settings.toml") == Settings()
    assert load(tmp_path, "") == Settings()


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        listen = "[::1]:5001"
        freshness = 60
        negative_freshness = 0.5
        parallel_per_source = 3
        connect_timeout = 1.5
        read_timeout = 2
        size_limit = "50 GiB"
        low_water = "85 %"
        manifest_limit = "8 MiB"

        [upstreams."registry.example.com"]
        name = "Ours"
        sign_in = "required"
        endpoint = "https://mirror.example.com"
        realms = ["https://auth.example.net"]

        [upstreams."docker.io"]
        endpoint = "http://127.0.0.1:5002"
        mirror = true
        """,
    )
    assert settings == Settings(
        listen="[::1]:5001",
        freshness=60.0,
        negative_freshness=0.5,
        parallel_per_source=3,
        connect_timeout=1.5,
        read_timeout=2.0,
        size_limit=SizeLimit(size=50 * 1024**3),
        low_water=0.85,
        manifest_limit=8 * 1024**2,
        upstreams=(
            DeclaredRegistry(
                "registry.example.com",
                "Ours",
                SignIn.REQUIRED,
                "https://mirror.example.com",
                ("https://auth.example.net",),
            ),
            DeclaredRegistry("docker.io", endpoint="http://127.0.0.1:5002", mirror=True),
        ),
    )
    assert (
        SourceRegistries(settings.upstreams).find("docker.io").endpoint == "http://127.0.0.1:5002"
    )


@pytest.mark.parametrize(
    ("value", "total", "limit"),
    [
        ("80 %", 1000, 800),
        ("12.5%", 1000, 125),
        ("100 %", 1000, 1000),
        ("500 GB", 1000, 500 * 10**9),
        ("50GiB", 1000, 50 * 2**30),
        ("1.5 tb", 1000, 1_500_000_000_000),
        ("4096", 1000, 4096),
        (4096, 1000, 4096),
    ],
)
def test_a_size_limit_is_a_share_of_the_file_system_or_a_size(
    value: str | int, total: int, limit: int
) -> None:
    assert parse_size_limit(value).within(total) == limit


def test_a_file_with_the_marks_of_other_systems_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(
        b'\xef\xbb\xbflisten = "0.0.0.0:5000"\r\nfreshness = 1\r\n'
    )
    assert Settings.load(tmp_path / "settings.toml").freshness == 1


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ("freshnes = 3", 1, "freshnes", "Did you mean freshness?"),
        ("\n[server]\nport = 1", 2, "server", "The keys are listen, certificate, key"),
        ("# x\nfreshness = -1", 2, "freshness", "lies between 0 and 365 days"),
        ("freshness = inf", 1, "freshness", "lies between 0 and 365 days"),
        ("freshness = nan", 1, "freshness", "lies between 0 and 365 days"),
        ('freshness = "soon"', 1, "freshness", 'Write "always", "never", or an interval'),
        (
            'freshness = 1\nca_file = "no-such.pem"',
            2,
            "ca_file",
            "can't be read: No such file or directory. Put the file there, or correct ca_file.",
        ),
        (
            'ca_file = "settings.toml"',
            1,
            "ca_file",
            "holds no certificates that can be read. Put one certificate or more there in PEM format",
        ),
        ("freshness = true", 1, "freshness", "expected float"),
        ("read_only = 1", 1, "read_only", "expected bool"),
        ("management = 1", 1, "management", "is not a table. Write [management]"),
        ('[management]\nlisten = "127.0.0.1:1"', 1, None, "token_file"),
        (
            '[management]\nlisten = "127.0.0.1:1"\ntokenfile = "x"',
            3,
            "tokenfile",
            "Did you mean token_file?",
        ),
        (
            '[management]\nlisten = "here"\ntoken_file = "x"',
            2,
            "listen",
            "is not an address to listen on",
        ),
        (
            'freshness = 1\n[management]\nlisten = "0.0.0.0:1"\ntoken_file = "x"',
            3,
            "listen",
            "Without TLS the token could be read by everyone",
        ),
        (
            '[management]\ntoken_file = "x"\nlisten = "a.example.com:1"',
            3,
            "listen",
            "Give certificate and key. They may be missing only on 127.0.0.1 and [::1]",
        ),
        (
            '[management]\nlisten = "[::]:1"\ntoken_file = "x"\nkey = "k"',
            4,
            "key",
            "There is no certificate beside the key.",
        ),
        (
            '[management]\nlisten = "[::]:1"\ntoken_file = "x"\ncertificate = "c"\nkey = "k"',
            4,
            "certificate",
            "can't be read: No such file",
        ),
        ('read_timeout = "5"', 1, "read_timeout", "expected float"),
        ("connect_timeout = 0", 1, "connect_timeout", "does not fit"),
        ("parallel_per_source = 0", 1, "parallel_per_source", "does not fit"),
        ("parallel_per_source = 1.5", 1, "parallel_per_source", "does not fit"),
        ("listen = 5000", 1, "listen", "does not fit"),
        ("size_limit = 0", 1, "size_limit", "does not fit"),
        ("size_limit = -5", 1, "size_limit", "does not fit"),
        ("size_limit = true", 1, "size_limit", "does not fit"),
        ("size_limit = 0.8", 1, "size_limit", "does not fit"),
        (
            'freshness = 1\nsize_limit = "a lot"',
            2,
            "size_limit",
            'Write "80 %" for a share of the file system',
        ),
        ('size_limit = "120 %"', 1, "size_limit", "goes up to 100 %"),
        ('size_limit = "0 %"', 1, "size_limit", "above 0 %"),
        ('size_limit = "0 GB"', 1, "size_limit", "leaves no room"),
        ('size_limit = "-1 GB"', 1, "size_limit", "is not a size limit"),
        ('freshness = 1\nlow_water = "90"', 2, "low_water", "percentage of the size limit"),
        ('low_water = "101 %"', 1, "low_water", "up to 100 %"),
        ('low_water = "0 %"', 1, "low_water", "above 0 %"),
        ("low_water = 90", 1, "low_water", "does not fit"),
        ("manifest_limit = 1000", 1, "manifest_limit", "from 4 MiB"),
        ('freshness = 1\nmanifest_limit = "65 MiB"', 2, "manifest_limit", "to 64 MiB"),
        ('manifest_limit = "80 %"', 1, "manifest_limit", "is not a size of manifests"),
        ("manifest_limit = true", 1, "manifest_limit", "does not fit"),
        ('freshness = 1\nlisten = "5000"', 2, "listen", "not an address to listen on"),
        ("listen = ", 1, None, "not TOML"),
        ("freshness = 1\nfreshness = 2", 2, None, "not TOML"),
        ("x = [" * 2000, None, None, ""),
        ("upstreams = 3", 1, "upstreams", "not a table"),
        ('[upstreams]\n"registry.example.com" = 3', 2, "upstreams", "not a table"),
        (
            "[upstreams.registry.example.com]\nname = 'x'",
            None,
            "upstreams",
            "has no quotation marks",
        ),
        (
            '[upstreams."r.example.com"]\nname = "x"\nsignin = "none"',
            3,
            "signin",
            "Did you mean sign_in?",
        ),
        ('[upstreams."r.example.com"]\nsign_in = "never"', 2, "sign_in", "does not fit"),
        ('[upstreams."r.example.com"]\nname = ""', 2, "name", "does not fit"),
        (
            '[upstreams."r.example.com"]\nendpoint = "mirror"',
            2,
            "endpoint",
            "not the address of a registry",
        ),
        ('[upstreams."r.example.com"]\nendpoint = "http://10.0.0.1"', 2, "endpoint", "in clear"),
        ('[upstreams."r.example.com"]\nmirror = true', 2, "mirror", "has no endpoint"),
        (
            '[upstreams."r.example.com"]\nname = "x"\nrealms = ["https://a.example.com/jwt"]',
            3,
            "realms",
            "not the address of a host",
        ),
        (
            '[upstreams."r.example.com"]\nrealms = "https://a.example.com"',
            2,
            "realms",
            "does not fit",
        ),
        ('[upstreams."https://r.example.com"]', 1, "login_server", "no https:// in front"),
        (
            '[upstreams."docker.io"]\n[upstreams."index.docker.io"]',
            2,
            "upstreams",
            "declared twice",
        ),
    ],
)
def test_what_can_not_be_used_is_told_with_its_line_and_key(
    tmp_path: Path, text: str, line: int | None, key: str | None, says: str
) -> None:
    error = refused(tmp_path, text)
    assert (error.code, error.field) == ("SettingsInvalid", key)
    assert says in error.message
    assert (
        (f"settings.toml, line {line}:" in error.what)
        if line
        else ("settings.toml:" in error.what or ", line" in error.what)
    )


def test_management_over_tcp_and_reading_only_are_off_until_they_are_asked_for(
    tmp_path: Path,
) -> None:
    assert (Settings().read_only, Settings().management) == (False, None)
    path = tmp_path / "settings.toml"
    path.write_text(
        'read_only = true\n[management]\nlisten = "[::1]:5001"\ntoken_file = "~/token"\n'
    )
    settings = Settings.load(path)
    assert settings == Settings(
        read_only=True, management=ManagementOverTcp("[::1]:5001", Path.home() / "token")
    )
    assert settings.management is not None
    assert settings.management.shown == "http://[::1]:5001"


def test_management_over_tls_finds_its_files_beside_the_settings(tmp_path: Path) -> None:
    Authority(tmp_path).server("localhost")
    (tmp_path / "localhost.pem").chmod(0o640)
    path = tmp_path / "settings.toml"
    path.write_text(
        '[management]\nlisten = "0.0.0.0:5001"\ntoken_file = "token"\ncertificate = "localhost.pem"\nkey = "localhost.pem"\n'
    )
    management = Settings.load(path).management
    assert management == ManagementOverTcp(
        "0.0.0.0:5001",
        tmp_path / "token",
        TlsFiles(tmp_path / "localhost.pem", tmp_path / "localhost.pem"),
    )
    assert management.shown == "https://0.0.0.0:5001"


def test_a_key_is_closed_to_others_by_its_mode_or_by_its_place(
    tmp_path: Path, open_directory: Path
) -> None:
    """F71."""
    Authority(tmp_path).server("localhost")
    (tmp_path / "localhost.pem").chmod(0o644)
    path = tmp_path / "settings.toml"
    written = '[management]\nlisten = "0.0.0.0:5001"\ntoken_file = "token"\ncertificate = "{0}/localhost.pem"\nkey = "{0}/localhost.pem"\n'
    path.write_text(written.format(tmp_path))
    assert Settings.load(path).management is not None
    shutil.copy(tmp_path / "localhost.pem", open_directory)
    path.write_text(written.format(open_directory))
    with pytest.raises(
        SettingsInvalid,
        match=r"line 5: In management: The key in .* is open to every user of this machine \(mode 0644\)\. Run: chmod 640 ",
    ):
        Settings.load(path)
    (open_directory / "localhost.pem").chmod(0o640)
    assert Settings.load(path).management is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("certificate", "certificate is UTF-16 text: save it as UTF-8"),
        ("key", "key is in DER format: convert it to PEM"),
    ],
)
def test_a_key_pair_in_a_format_that_no_server_takes_is_named(
    name: str, says: str, tmp_path: Path
) -> None:
    """F87."""
    Authority(tmp_path).server("localhost")
    pem = (tmp_path / "localhost.pem").read_bytes()
    (tmp_path / "certificate").write_bytes(
        pem.decode().encode("utf-16") if name == "certificate" else pem
    )
    (tmp_path / "key").write_bytes(b"\x30\x82\x01\x00" if name == "key" else pem)
    text = '[management]\nlisten = "0.0.0.0:5001"\ntoken_file = "token"\ncertificate = "certificate"\nkey = "key"\n'
    assert says in refused(tmp_path, text).message


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b"\xef\xbb\xbfABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (b" ABCDEFGHIJKLMNOPQRSTUVWXYZ \n\n", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ".encode("utf-16"), None),
    ],
)
def test_a_token_is_read_as_editors_write_it(
    content: bytes, token: str | None, tmp_path: Path
) -> None:
    """F87."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_bytes(content)
    management = ManagementOverTcp("127.0.0.1:5001", tmp_path / "token")
    if token is not None:
        assert management.token() == token
        return
    with pytest.raises(
        SettingsInvalid, match=r"token is not UTF-8 text but UTF-16\. Save it as plain UTF-8 text"
    ):
        management.token()


def test_a_home_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    """F78."""
    message = refused(tmp_path, 'ca_file = "~no-such-user/ca.pem"\n').message
    assert (
        "line 1: '~no-such-user/ca.pem' begins with an unknown home directory. Write the whole path."
        in message
    )


def test_a_password_in_an_endpoint_is_not_repeated(tmp_path: Path) -> None:
    assert (
        "hunter2"
        not in refused(
            tmp_path, '[upstreams."r.example.com"]\nendpoint = "https://me:hunter2@r.example.com"'
        ).message
    )


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b"# one\n\xff")
    with pytest.raises(SettingsInvalid, match=r"line 2: It is not UTF-8"):
        Settings.load(tmp_path / "settings.toml")


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").mkdir()
    with pytest.raises(SettingsInvalid, match="can't be read"):
        Settings.load(tmp_path / "settings.toml")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000),
        ("[::1]:5000", "::1", 5000),
        ("[::]:0", "::", 0),
        ("localhost:0", "localhost", 0),
        ("cache.example.com:65535", "cache.example.com", 65535),
    ],
)
def test_an_address_to_listen_on_is_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5000",
        ":5000",
        "localhost",
        "localhost:",
        "::1:5000",
        "[::1]",
        "localhost:65536",
        "localhost:-1",
        "localhost:x",
        "http://localhost:5000",
        "a b:1",
    ],
)
def test_what_is_not_an_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parse_listen(text)
    assert caught.value.field == "listen"
