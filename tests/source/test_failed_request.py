"""What a request was for, and the chain of errors behind its failure."""

from __future__ import annotations

import errno
import itertools
import socket
import ssl

import httpx
import pytest

from entrepot.source.failed_request import RequestTarget, causes_of, errnos, failed_lookup


def wrapped(*errors: BaseException) -> BaseException:
    """The first error, caused by the second, and so on."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_the_chain_leads_from_the_error_to_what_the_system_said() -> None:
    outer, middle, inner = ValueError("outer"), KeyError("middle"), OSError("inner")
    assert causes_of(wrapped(outer, middle, inner)) == [outer, middle, inner]


def test_errors_of_a_group_belong_to_the_chain() -> None:
    one, other = OSError(errno.ECONNREFUSED, "refused"), OSError(errno.ENETUNREACH, "no route")
    group = ExceptionGroup("all addresses", [one, other])
    assert causes_of(wrapped(ValueError("outer"), group))[1:] == [group, one, other]


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert causes_of(one) == [one, other]


def test_numbers_come_from_the_errors_and_from_the_text_of_several_addresses() -> None:
    chain: list[BaseException] = [
        OSError(errno.ENETUNREACH, "no route"),
        OSError("Multiple exceptions: [Errno 111] refused, [Errno 110] timed out"),
        socket.gaierror(socket.EAI_NONAME, "unknown name"),
        ssl.SSLError(1, "TLS"),
    ]
    assert errnos(chain) == {errno.ENETUNREACH, errno.ECONNREFUSED, errno.ETIMEDOUT}


def test_a_failed_lookup_is_found_in_the_chain() -> None:
    lookup = socket.gaierror(socket.EAI_AGAIN, "no answer")
    assert failed_lookup([ValueError(), lookup]) is lookup
    assert failed_lookup([OSError(errno.ECONNREFUSED, "refused")]) is None


@pytest.mark.parametrize(
    ("name", "url", "label", "port"),
    [
        ("quay.io", "https://quay.io/v2/", "quay.io", 443),
        ("docker.io", "https://registry-1.docker.io/v2/", "docker.io (registry-1.docker.io)", 443),
        ("registry.corp", "http://registry.corp/v2/", "registry.corp", 80),
        ("registry.corp", "http://registry.corp:5000/v2/", "registry.corp", 5000),
    ],
)
def test_the_target_names_the_host_where_that_has_another_name(
    name: str, url: str, label: str, port: int
) -> None:
    target = RequestTarget(name, httpx.URL(url))
    assert (target.label, target.port) == (label, port)
