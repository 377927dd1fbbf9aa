"""What goes wrong between a client and a running engine.

::

    ClientError
    ├── EngineUnreachable      no engine answers
    ├── EngineUntrusted        the server at an HTTPS address could not prove who it is
    ├── EngineRefused          the engine refused a request, with its code and advice
    └── EngineAnswerInvalid    the server is no engine, or an engine of another version
"""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """An error for the user of a client.

    ``message`` says what happened and what to do.
    """

    code: ClassVar[str] = "ClientError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EngineUnreachable(ClientError):
    """No engine answers on the socket or at the address."""

    code = "EngineUnreachable"


class EngineUntrusted(ClientError):
    """The server at an HTTPS address is not trusted, or does not speak TLS.

    Nothing was sent to it.
    """

    code = "EngineUntrusted"


class EngineAnswerInvalid(ClientError):
    """The server on the socket is no engine, or an engine of another version."""

    code = "EngineAnswerInvalid"


class EngineRefused(ClientError):
    """The engine refused a request.

    *code* is ACR's or ours, *field* the field that caused it, *status* the HTTP status.
    """

    def __init__(self, code: str, message: str, *, field: str | None, status: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]
        self.field = field
        self.status = status
