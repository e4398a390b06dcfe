"""Log lines: fields stay fields, in text and in JSON."""

import io
import json
import logging

import pytest

from ebbtide.controller.logs import fields, set_up_logging


@pytest.fixture(autouse=True)
def restore():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(form: str, level: str = "info") -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    set_up_logging(level, form, stream)
    return stream, logging.getLogger("ebbtide.test")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("team/chat", "k=team/chat"),
        ("two words", 'k="two words"'),
        ('say "x"\nnext', 'k="say \\"x\\"\\nnext"'),
        ("", 'k=""'),
        (3, "k=3"),
        ("a=b", 'k="a=b"'),
    ],
)
def test_text_quotes_what_would_break_a_field(value, shown):
    stream, log = logged("text")
    log.info("decision", extra=fields(k=value))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(f" INFO decision {shown}")


def test_json_keeps_types_and_is_one_line_an_event():
    stream, log = logged("json")
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("step %s failed", "plan", extra=fields(service="a/b", replicas=2))
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event["message"] == "step plan failed"
    assert (event["level"], event["service"], event["replicas"]) == ("error", "a/b", 2)
    assert "ValueError: x" in event["traceback"]


def test_the_level_applies_and_kopf_stays_quiet():
    stream, log = logged("text", "warning")
    log.info("hidden")
    log.warning("shown")
    assert len(stream.getvalue().splitlines()) == 1
    stream, log = logged("text", "info")
    logging.getLogger("kopf.objects").info("Handler succeeded")
    log.info("shown")
    assert len(stream.getvalue().splitlines()) == 1
