"""The engine's log: plain lines for people, or JSON lines for log collectors."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from entrepot.formatting import escaped, printable, printable_json
from entrepot.server.log_limit import LogLimit
from entrepot.server.log_output import LogFile, LogOutput, StandardError

MESSAGE_LENGTH = 16_384
"""Characters of a message in the plain log; a longer one is cut."""


class PlainFormatter(logging.Formatter):
    """One sortable line: ``2026-11-02T10:15:00+00:00 WARNING The pull of …``.

    No terminal obeys it (S04). Only a traceback adds lines; they are indented, so that none can
    pass for a record of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        lines = [f"{moment} {level}{printable(record.getMessage(), MESSAGE_LENGTH)}"]
        for details in (
            self.formatException(record.exc_info) if record.exc_info else "",
            record.stack_info or "",
        ):
            lines += [f"    {escaped(line)}" for line in details.split("\n") if line]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in ("kind", "subject"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable_json(json.dumps(line, ensure_ascii=False))


def set_up_logging(log_format: str, log_file: Path | None = None) -> LogOutput:
    """Log to standard error, or to *log_file*, in ``plain`` or ``json`` lines.

    Raises `EngineError` where that file can't be written.
    """
    handler = LogOutput(StandardError() if log_file is None else LogFile(log_file))
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    handler.addFilter(LogLimit())
    # asyncio and other libraries have no handler of their own, and may quote text from a source or
    # a client.
    logging.lastResort = handler
    logger = logging.getLogger("entrepot")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler
