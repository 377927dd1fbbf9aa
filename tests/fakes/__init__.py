"""A source registry for tests that fails on command.

It speaks HTTP/1.1 on a socket of its own, in the event loop of the test, so that a dropped
connection, a short body or a missing header is exactly that::

    async with FakeRegistry() as source:
        image = source.add_image("library/nginx", "1.27", layers=[100_000, 20_000])
        source.fault("/blobs/", DropAfter(50_000))
        ...
        assert source.count("GET", "/blobs/") == 2
"""

from tests.fakes.faults import (
    Compressed,
    DropAfter,
    Fault,
    FlipByte,
    Gate,
    Hang,
    Headers,
    Html,
    IgnoreRange,
    NoAnswer,
    NoContentLength,
    Redirect,
    Shorten,
    Status,
    TruncateAt,
)
from tests.fakes.images import Content, FakeImage, PlatformImage
from tests.fakes.proxies import FakeProxy, HttpProxy, SocksProxy
from tests.fakes.registry import FakeRegistry
from tests.fakes.sign_in import BasicSignIn, SignIn, TokenSignIn
from tests.fakes.transport import Request

__all__ = [
    "BasicSignIn",
    "Compressed",
    "Content",
    "DropAfter",
    "FakeImage",
    "FakeProxy",
    "FakeRegistry",
    "Fault",
    "FlipByte",
    "Gate",
    "Hang",
    "Headers",
    "Html",
    "HttpProxy",
    "IgnoreRange",
    "NoAnswer",
    "NoContentLength",
    "PlatformImage",
    "Redirect",
    "Request",
    "Shorten",
    "SignIn",
    "SocksProxy",
    "Status",
    "TokenSignIn",
    "TruncateAt",
]
