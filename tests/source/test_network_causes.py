"""Which cause a failed connection has. `test_diagnosis` produces such failures for real."""

from __future__ import annotations

import errno
import socket

import httpx
import pytest

from entrepot.causes import CauseCode
from entrepot.source.dns import LookupsBusy, LookupTimedOut
from entrepot.source.failed_request import RequestTarget, causes_of
from entrepot.source.network_causes import limit_cause, may_come_from_environment, network_cause

TARGET = RequestTarget("docker.io", httpx.URL("https://registry-1.docker.io/v2/"))


def failure(error: httpx.TransportError, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            failure(httpx.ConnectTimeout(""), LookupTimedOut("slow")),
            CauseCode.NAME_SERVER_SILENT,
        ),
        (failure(httpx.ConnectError(""), LookupsBusy("stuck")), CauseCode.LOOKUPS_BUSY),
        (
            failure(httpx.ConnectError(""), socket.gaierror(socket.EAI_AGAIN, "again")),
            CauseCode.NAME_SERVER_SILENT,
        ),
        (
            failure(httpx.ConnectError(""), socket.gaierror(socket.EAI_NONAME, "unknown")),
            CauseCode.NAME_UNKNOWN,
        ),
        (
            failure(httpx.ConnectError(""), OSError(errno.EHOSTUNREACH, "no route")),
            CauseCode.NO_ROUTE,
        ),
        (failure(httpx.ConnectTimeout("")), CauseCode.CONNECTION_SILENT),
        (
            failure(httpx.ConnectError(""), OSError(errno.ETIMEDOUT, "timed out")),
            CauseCode.CONNECTION_SILENT,
        ),
        (failure(httpx.ReadTimeout("")), CauseCode.ANSWER_SILENT),
        (failure(httpx.ProxyError("")), CauseCode.PROXY_FAILS),
        (failure(httpx.ConnectError(""), ConnectionResetError()), CauseCode.CONNECTION_ENDED),
        (
            failure(httpx.ConnectError(""), ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
            CauseCode.CONNECTION_REFUSED,
        ),
        (failure(httpx.RemoteProtocolError("")), CauseCode.CONNECTION_ENDED),
    ],
)
def test_each_failure_of_a_connection_has_its_cause(error: BaseException, code: CauseCode) -> None:
    cause = network_cause(causes_of(error), error, TARGET)
    assert cause.code is code
    assert cause.what.startswith("docker.io (registry-1.docker.io) ")


def test_where_one_address_refuses_and_another_has_no_route_the_refusal_counts() -> None:
    error = failure(httpx.ConnectError(""), OSError("[Errno 111] refused, [Errno 101] no route"))
    assert network_cause(causes_of(error), error, TARGET).code is CauseCode.CONNECTION_REFUSED


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EMFILE, CauseCode.OPEN_FILES),
        (errno.ENFILE, CauseCode.OPEN_FILES),
        (errno.ENOMEM, CauseCode.MEMORY),
        (errno.EADDRNOTAVAIL, CauseCode.PORTS),
    ],
)
def test_what_this_machine_has_run_out_of_is_no_fault_of_the_source(
    number: int, code: CauseCode
) -> None:
    cause = limit_cause([OSError(number, "exhausted")], TARGET)
    assert cause is not None
    assert cause.code is code


def test_a_refused_connection_is_no_limit_of_this_machine() -> None:
    assert limit_cause([OSError(errno.ECONNREFUSED, "refused")], TARGET) is None


@pytest.mark.parametrize(
    ("error", "host", "expected"),
    [
        (OSError(errno.ENETUNREACH, "no route"), "10.0.0.7", True),
        (socket.gaierror(socket.EAI_AGAIN, "again"), "registry-1.docker.io", True),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "10.0.0.7", False),
        (OSError(errno.ECONNREFUSED, "refused"), "registry-1.docker.io", False),
    ],
)
def test_the_environment_is_checked_where_it_may_be_the_cause(
    error: OSError, host: str, expected: bool
) -> None:
    assert may_come_from_environment([error], host) is expected
