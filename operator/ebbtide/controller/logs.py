"""Log lines for people (key=value text) and for machines (JSON), from the same fields.

A line's fields come with it as `extra={"fields": {...}}`; nothing parses a message to get numbers back.
"""

import logging
import sys
from typing import Any, TextIO

import msgspec

from ebbtide.clock import rfc3339_micro

# libraries that log each success at INFO
_QUIET = ("kopf", "kopf.objects", "kopf._core", "kopf._cogs", "aiohttp.access", "urllib3")


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """All of the process logs to `stream` (stderr) from `level` up, as `form`: "text" or "json"."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # it warns that it has no signals because it runs in a thread, which is meant
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """`log.info("decision", extra=fields(service="team/chat"))`."""
    return {"fields": values}


class TextLines(logging.Formatter):
    """`2026-01-31T09:05:00.123456Z INFO decision service=team/chat reason=DemandRose text="2 replicas carry 9/s"`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        values: dict[str, Any] = getattr(record, "fields", {})
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in values.items())
        line = f"{rfc3339_micro(record.created)} {record.levelname} {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": rfc3339_micro(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _quoted(value: Any) -> str:
    text = str(value)
    if text and not any(character in text for character in ' ="\n'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
