"""The forms that the lines of a log have."""

import datetime
import json
import logging

from jaxcovid.runtime.user_errors import PACKAGE

TIME = "%H:%M:%S"
DATE_AND_TIME = "%Y-%m-%d %H:%M:%S"  # of a service, which runs for days


def plain(time_format: str = TIME, prefix: str = "") -> logging.Formatter:
    """Lines of text, the time in front.

    Args:
      time_format: of the time.
      prefix: between time and message.
    """
    return logging.Formatter(f"%(asctime)s {prefix}%(message)s", time_format)


class JsonLines(logging.Formatter):
    """A JSON object a line, each with its time.

    What this package logs as an object with an `event` stays one; all else is the event `log`, with
    level and message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = _event_of(record) or {
            "event": "log",
            "level": record.levelname.lower(),
            "message": super().format(record),  # the traceback included
        }
        return json.dumps({"time": time.isoformat(timespec="milliseconds"), **fields})


def _event_of(record: logging.LogRecord) -> dict[str, object] | None:
    if not record.pathname.startswith(PACKAGE) or record.exc_info:
        return None
    try:
        fields = json.loads(record.getMessage())
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "event" in fields else None
