"""Run the worker in a child process, and start another where a handler took it down.

A thread can't be interrupted, so a handler that hangs ends only with its process; and a handler may end its process by
itself (`os._exit`, a segmentation fault, too much memory).
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings

logger = logging.getLogger(__name__)

RESTART_AFTER = 1.0
STOP_WITHIN = 9.0
ORDERLY = "."


def supervise(arguments: list[str]) -> int:
    """Run `manage.py deliver` with these arguments until it ends in order; return its exit status."""
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None
    down: list[str] = []

    def stop(signum: int, frame: Any) -> None:
        if not stopping.is_set():
            signal.setitimer(signal.ITIMER_REAL, STOP_WITHIN)
        stopping.set()
        if child:
            child.send_signal(signal.SIGTERM)

    def end(signum: int, frame: Any) -> None:
        # While it waits for SQLite's write lock a process hears no signal, and can give nothing back.
        logger.error("the worker process did not stop and is killed; what it held falls due when its leases end")
        if child:
            child.kill()

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        ending, child_ending = os.pipe()
        os.set_blocking(ending, False)
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "deliver", *arguments, *down]
        # A session of its own: Ctrl-C reaches this process alone, which passes it on.
        child = subprocess.Popen(  # noqa: S603 - this project's own command
            [*command, "--child", str(child_ending), "--parent", str(os.getpid())],
            pass_fds=[child_ending],
            start_new_session=True,
        )
        os.close(child_ending)
        if stopping.is_set():
            child.send_signal(signal.SIGTERM)
        status = child.wait()
        said = _read(ending)
        if said == ORDERLY or stopping.is_set():
            return max(status, 0)  # a child that the signal met before it was ready had nothing to give back
        down = [f"--down={destination}" for destination in said.splitlines()]
        if down:
            logger.error("the worker process ended as handlers hang; starting another")
            continue
        logger.error("the worker process ended with status %s; starting another", status)
        stopping.wait(RESTART_AFTER)


def say_orderly(ending: int) -> None:
    """Tell the parent, over the pipe that it gave, that this end is meant."""
    _say(ending, ORDERLY)


def say_hung(ending: int, destinations: Sequence[str]) -> None:
    """Tell the parent which destinations hang, so that the next child does not give all its threads to them."""
    _say(ending, "\n".join(destinations))


def _say(ending: int, text: str) -> None:
    with suppress(BrokenPipeError):  # the parent is gone
        os.write(ending, text.encode())


def stop_with_parent(stop: Callable[[], None], parent: int) -> None:
    """Call `stop` when the parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1.0)
    stop()


def _read(ending: int) -> str:
    try:
        return os.read(ending, 65536).decode()
    except BlockingIOError:  # a process that a handler started still holds the other end
        return ""
    finally:
        os.close(ending)
