"""F75: the variables that name proxies, read as docker, containerd and curl read them."""

from __future__ import annotations

import httpx
import pytest

from entrepot.source.proxies import Proxy, ProxyUnusable, environment_problems, proxy_of

PROXY = "http://proxy.example:3128"

GO = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, "
    "10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, "
    "2002:db8:a::45/64"
)
"""golang.org/x/net, http/httpproxy/proxy_test.go, noProxy; UseProxyTests has the values below."""


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("[::1]", True),
        # Not [::2], which is 0.0.0.2 to us, nor link-local addresses: nothing of our surroundings
        # goes through a proxy.
        ("192.168.1.1", True),
        ("192.168.1.2", False),
        ("192.168.1.3", True),
        ("192.168.1.4", False),
        ("10.0.0.2", True),
        ("[2001:db8::52:0:1]", True),
        ("[2001:db8::52:0:2]", False),
        ("[2001:db8::52:0:3]", True),
        ("[2002:db8:a::123]", True),
        ("barbaz.net", False),
        ("www.barbaz.net", True),
        ("foobar.com", True),
        ("www.foobar.com", True),
        ("foofoobar.com", False),
        ("baz.com", False),
        ("localhost.net", False),
        ("barbarbaz.net", False),
        ("wildcard.io", False),
        ("nested.wildcard.io", True),
        ("awildcard.io", False),
    ],
)
def test_no_proxy_means_what_it_means_in_go(host: str, direct: bool) -> None:
    proxy = proxy_of(httpx.URL(f"http://{host}/v2/"), {"http_proxy": PROXY, "no_proxy": GO})
    assert (proxy is None) == direct


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        # The example of F75.
        ("10.0.0.0/8,*.corp", "https://10.20.30.40:5000/", True),
        ("10.0.0.0/8,*.corp", "https://registry.corp/", True),
        ("10.0.0.0/8,*.corp", "https://registry.corp.example/", False),
        ("10.0.0.0/8,*.corp", "https://11.0.0.1/", False),
        # Names are not looked up for a network, and the first address of one may be any.
        ("0.0.0.0/0", "https://quay.io/", False),
        ("10.1.2.3/8", "https://10.200.0.1/", True),
        ("fd00::/8", "https://[fd12::1]:5000/", True),
        ("fd00::/8", "https://[fe12::1]/", False),
        ("10.0.0.0/8", "https://[::ffff:10.0.0.1]/", True),
        # Ports: that of the scheme where the URL has none.
        ("corp:443", "https://registry.corp/", True),
        ("corp:443", "http://registry.corp/", False),
        ("corp:5000", "https://registry.corp:5000/", True),
        ("corp:5000", "https://registry.corp/", False),
        ("*.corp:5000", "https://registry.corp:5000/", True),
        (".corp:5000", "https://registry.corp:5001/", False),
        ("[fd00::1]:5000", "https://[fd00::1]:5000/", True),
        ("[fd00::1]:5000", "https://[fd00::1]/", False),
        # Case, blanks, dots, brackets.
        ("CORP", "https://Registry.Corp/", True),
        ("  corp ,\tquay.io ", "https://quay.io/", True),
        ("corp quay.io", "https://quay.io/", True),
        (",,corp,,", "https://a.corp/", True),
        ("corp.", "https://registry.corp/", True),
        ("corp", "https://registry.corp./", True),
        ("[fd00::1]", "https://[fd00::1]/", True),
        ("fd00::1", "https://[fd00:0:0::1]:5000/", True),
        ("*", "https://quay.io/", True),
        ("quay.io,*", "https://ghcr.io/", True),
        (".示例.com", "https://www.xn--fsq092h.com/", True),
        ("xn--fsq092h.com", "https://www.示例.com/", True),
        # A name is no address and an address no name.
        ("0.0.1", "https://10.0.0.1/", False),
        (".1", "https://10.0.0.1/", False),
        # What names nothing does no harm.
        (":1", "https://quay.io/", False),
        ("10.0.0.0/33,quay.io", "https://quay.io/", True),
        ("http://quay.io", "https://quay.io/", False),
        ("", "https://quay.io/", False),
    ],
)
def test_no_proxy_is_read_as_go_and_curl_read_it(no_proxy: str, url: str, direct: bool) -> None:
    proxy = proxy_of(httpx.URL(url), {"ALL_PROXY": PROXY, "NO_PROXY": no_proxy})
    assert (proxy is None) == direct


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other.example:1"}, PROXY),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "all_proxy": "socks5://other.example"}, PROXY),
        (
            {"https_proxy": " ", "ALL_PROXY": "socks5://proxy.example"},
            "socks5://proxy.example:1080",
        ),
        ({"all_proxy": "SOCKS5H://Proxy.Example:9050/"}, "socks5h://proxy.example:9050"),
        ({"https_proxy": "proxy.example"}, "http://proxy.example:80"),
        ({"https_proxy": "//proxy.example:8080"}, "http://proxy.example:8080"),
        ({"https_proxy": "https://proxy.example"}, "https://proxy.example:443"),
        ({"https_proxy": "http://[fd00::1]:3128\n"}, "http://[fd00::1]:3128"),
        ({"https_proxy": "127.0.0.1:3128"}, "http://127.0.0.1:3128"),
    ],
)
def test_a_proxy_is_named_in_several_ways(environment: dict[str, str], address: str) -> None:
    proxy = proxy_of(httpx.URL("https://quay.io/v2/"), environment)
    assert proxy is not None
    assert proxy.url == proxy.address == address
    assert proxy.authorization is None
    assert environment_problems(environment) == []


def test_the_name_and_the_password_of_a_proxy_are_decoded_and_shown_nowhere() -> None:
    proxy = proxy_of(
        httpx.URL("https://quay.io/"),
        {"HTTPS_PROXY": "http://an%40n:p%3Aw%C3%A4@rd@proxy.example:3128"},
    )
    assert proxy == Proxy("http", "proxy.example", 3128, "HTTPS_PROXY", "an@n", "p:wä@rd")
    assert proxy.place == "proxy.example:3128"
    assert proxy.url == "http://an%40n:p%3Aw%C3%A4%40rd@proxy.example:3128"
    assert proxy.authorization == "Basic YW5AbjpwOnfDpEByZA=="
    assert "an@n" not in repr(proxy)
    assert "p:w" not in repr(proxy)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            "socks4://user:s3cret@proxy.example:1080",
            "the kind socks4, which Entrepot does not support",
        ),
        ("socks://proxy.example:1080", "the kind socks, which"),
        ("ftp://proxy.example", "the kind ftp, which"),
        ("http://", "can't be read"),
        ("http://user:s3cret/x@proxy.example:3128", "can't be read"),
        ("http://user:s3cret#x@proxy.example:3128", "can't be read"),
        ("http://proxy.example:99999", "can't be read"),
        ("http://proxy.example:port", "can't be read"),
        ("http://proxy.example:0", "can't be read"),
        ("http://[fd00::1:3128", "can't be read"),
        ("http://pro xy:3128", "can't be read"),
        ("http://user:s3cret%0d%0aX: y@proxy.example:3128", "can't be read"),
        ("http:/proxy.example:3128", "can't be read"),
        ("none", None),
        ("socks5://user@proxy.example", "SOCKS5 can't carry"),
        ("socks5://user:" + "x" * 256 + "@proxy.example", "SOCKS5 can't carry"),
        ("socks5://user:s3cr%C3%A9t@proxy.example", "SOCKS5 can't carry"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_named_by_its_variable_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str, reason: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ALL_PROXY", value)
    if reason is None:
        assert environment_problems() == []
        return
    with pytest.raises(ProxyUnusable) as refused:
        proxy_of(httpx.URL("https://quay.io/"))
    [problem] = environment_problems()
    assert (problem.what, problem.hint) == (refused.value.what, refused.value.hint)
    assert problem.variable == "ALL_PROXY"
    assert problem.what.startswith("ALL_PROXY in the engine's environment ")
    assert reason in problem.what
    assert "start the engine again" in problem.hint
    assert "s3c" not in problem.message
    assert problem.message.isprintable()
    # What needs no proxy works.
    assert proxy_of(httpx.URL("http://127.0.0.1:5000/")) is None
    monkeypatch.setenv("NO_PROXY", "quay.io")
    assert proxy_of(httpx.URL("https://quay.io/")) is None


def test_a_variable_that_is_not_used_is_no_problem() -> None:
    assert (
        environment_problems({"ALL_PROXY": "socks4://x", "HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY})
        == []
    )
    assert environment_problems({"NO_PROXY": "10.0.0.0/33"}) == []
    assert [
        each.variable
        for each in environment_problems({"all_proxy": "socks4://x", "HTTP_PROXY": PROXY})
    ] == ["all_proxy"]
    assert [
        each.variable
        for each in environment_problems({"https_proxy": "socks4://x", "HTTP_PROXY": "ftp://y"})
    ] == ["https_proxy", "HTTP_PROXY"]


@pytest.mark.parametrize(
    "entry",
    [
        "10.0.0.0/33",
        "192.168.*",
        "http://quay.io",
        ":1",
        "quay.io:https",
        "a\x1b[2Jb*",
        "a.corp;b.corp",
        '"quay.io"',
    ],
)
def test_an_entry_of_no_proxy_that_names_nothing_is_reported(entry: str) -> None:
    [problem] = environment_problems({"HTTPS_PROXY": PROXY, "NO_PROXY": f"corp,{entry}"})
    assert problem.variable == "NO_PROXY"
    assert "of NO_PROXY names no host, address or network: it is ignored." in problem.what
    assert problem.message.isprintable()
