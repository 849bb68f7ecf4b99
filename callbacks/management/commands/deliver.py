"""`manage.py deliver`: carry due deliveries to their destinations, or feed those that do."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils.module_loading import import_string

from callbacks import idleness
from callbacks.feeder import Feeder, Publish
from callbacks.settling import trace
from callbacks.supervisor import say_hung, say_orderly, stop_with_parent, supervise
from callbacks.worker import Ending, Worker, kind

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Run a worker until SIGTERM or Ctrl-C."""

    help = "Carry due deliveries to their destinations until SIGTERM or Ctrl-C; unfinished ones are given back."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --once, --threads and --feed; --child and --down are the supervisor's."""
        parser.add_argument("--once", action="store_true", help="until no delivery is due, then exit")
        parser.add_argument(
            "--threads",
            type=int,
            default=4,
            help="attempts at the same time (default 4), and as many more where some are slow",
        )
        parser.add_argument(
            "--feed",
            action="store_true",
            help="attempt nothing here, but give what is due to Celery workers by way of CELERY_BROKER_URL; of any "
            "number that run, one acts",
        )
        parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--down", action="append", default=[], help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        """Supervise a child that works; SIGTERM gives running attempts a few seconds, then gives them back."""
        if options["threads"] < 1:
            raise CommandError("--threads must be at least 1", returncode=2)
        if options["feed"]:
            _require_feedable(options)
        if options["child"] is None:
            given = [f"--{name}" for name in ("feed", "once") if options[name]]
            sys.exit(supervise([*given, "--threads", str(options["threads"])]))
        idleness.limit()
        if options["feed"]:
            self._feed(options)
        self._work(options)

    def _feed(self, options: dict[str, Any]) -> NoReturn:
        """Feed Celery's workers as the supervisor's child."""
        feeder = Feeder(_publisher(), settings.FEED_AHEAD)
        _heed(feeder.stop, options["parent"])
        try:
            feeder.run()
        except BaseException as error:  # noqa: BLE001 - as in _work
            logger.critical("the feeder broke off, and another is started: %s", trace(error))
            self._end(1)
        self._end(self._say(Ending.FINISHED, [], options["child"]))

    def _work(self, options: dict[str, Any]) -> NoReturn:
        """Carry deliveries as the supervisor's child, and end without waiting for threads in which handlers hang."""
        worker = Worker(options["threads"], options["down"])
        _heed(worker.stop, options["parent"])
        try:
            ending = worker.run(once=options["once"])
        except Error as error:
            say_orderly(options["child"])
            self.stderr.write(f"the database refuses: {kind(error)}; check DATABASE_URL and that it is up")
            self._end(1)
        except BaseException as error:  # noqa: BLE001 - an exit that waits for threads would hang with their handlers
            logger.critical("the worker broke off, and another is started: %s", trace(error))
            self._end(1)
        self._end(self._say(ending, worker.hung, options["child"]))

    def _end(self, status: int) -> NoReturn:
        self.stderr.flush()
        logging.shutdown()
        os._exit(status)

    def _say(self, ending: Ending, hung: list[str], child: int) -> int:
        """Tell how the run ended, and return the exit status for it."""
        if ending is Ending.TIMED_OUT:
            say_hung(child, hung)
            return 1
        say_orderly(child)
        gave_back = ", unfinished attempts were given back" if ending is Ending.GAVE_BACK else ""
        self.stdout.write(f"deliver: stopped{gave_back}")
        self.stdout.flush()
        return 0


def _require_feedable(options: dict[str, Any]) -> None:
    """Raise CommandError where there is nobody to feed, or nothing to feed with."""
    if options["once"]:
        raise CommandError("--feed feeds until it is stopped; leave out --once", returncode=2)
    if not settings.CELERY_BROKER_URL:
        raise CommandError("CELERY_BROKER_URL is empty: set it to your broker's address, or leave out --feed")
    if find_spec("celery") is None:
        raise CommandError("Celery is not installed: pip install -r requirements-celery.txt")


def _publisher() -> Publish:
    """Return what publishes; it is imported by name, as Celery is there only where somebody wants it."""
    import_module(settings.CELERY_APPLICATION)
    publish: Publish = import_string("callbacks.tasks.publish")
    return publish


def _heed(stop: Callable[[], None], parent: int) -> None:
    """Stop on SIGTERM, or when the supervisor is gone; Ctrl-C reaches the supervisor, which passes it on."""
    signal.signal(signal.SIGTERM, lambda *_: stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=stop_with_parent, args=(stop, parent), name="parent", daemon=True).start()
