"""Each line of a JSON log is an object with a time, whoever wrote it."""

import datetime
import json
import logging
import sys

from jaxcovid.runtime import log_lines
from jaxcovid.runtime.user_errors import PACKAGE


def line(message, *, path=PACKAGE + "serve.py", level=logging.INFO, error=None):
    record = logging.LogRecord("absl", level, path, 1, message, (), error)
    text = log_lines.JsonLines().format(record)
    assert "\n" not in text
    fields = json.loads(text)
    time = datetime.datetime.fromisoformat(fields.pop("time"))
    assert abs(time.timestamp() - record.created) < 0.002
    return fields


def test_events_of_this_package_stay():
    assert line('{"event": "request", "ms": 1.5}') == {"event": "request", "ms": 1.5}


def test_all_else_is_a_message_with_a_level():
    said = {"event": "log", "level": "warning", "message": 'two\n"lines"'}
    assert line('two\n"lines"', level=logging.WARNING) == said
    for text in ("7", '{"a": 1}', "{", '["event"]'):
        assert line(text)["message"] == text
    forged = '{"event": "request"}'
    assert line(forged, path="/usr/lib/python3/x.py")["message"] == forged
    try:
        raise KeyError("no such key")
    except KeyError:
        said = line('{"event": "request"}', level=logging.ERROR, error=sys.exc_info())
    assert said["level"] == "error"
    assert said["message"].endswith("KeyError: 'no such key'")
