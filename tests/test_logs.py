"""Log lines for collectors."""

import json
import logging
import sys

from dingcallback.logs import JsonFormatter


def record(message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("callbacks.views", logging.WARNING, __file__, 1, message, values, None)


def test_a_record_is_one_line_of_json_whatever_it_says() -> None:
    line = JsonFormatter().format(record('事件 %s\nsecond line "quoted"', 7))
    assert "\n" not in line
    assert "事件 7" in line
    told = json.loads(line)
    assert (told["level"], told["logger"]) == ("WARNING", "callbacks.views")
    assert told["message"] == '事件 7\nsecond line "quoted"'
    assert told["time"].endswith("+00:00")
    assert "traceback" not in told


def test_an_error_brings_its_traceback() -> None:
    failed = record("failed")
    try:
        raise ValueError("because")
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert "ValueError: because" in json.loads(JsonFormatter().format(failed))["traceback"]
