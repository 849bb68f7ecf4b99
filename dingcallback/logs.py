"""One JSON object a log line, for collectors: `LOG_FORMAT=json`."""

import json
import logging
from datetime import datetime, timezone


class JsonFormatter(logging.Formatter):
    """Format a record as {"time", "level", "logger", "message"} and, after an error, "traceback"."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON; Chinese stays readable."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
