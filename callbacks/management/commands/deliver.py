"""`manage.py deliver`: carry due deliveries to their destinations."""

import argparse
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from callbacks.supervisor import say_hung, say_orderly, stop_with_parent, supervise
from callbacks.worker import Ending, Worker, kind


class Command(BaseCommand):
    """Run a worker until SIGTERM or Ctrl-C."""

    help = "Carry due deliveries to their destinations until SIGTERM or Ctrl-C; unfinished ones are given back."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --once and --threads; --child and --down are the supervisor's."""
        parser.add_argument("--once", action="store_true", help="until no delivery is due, then exit")
        parser.add_argument(
            "--threads",
            type=int,
            default=4,
            help="attempts at the same time (default 4), and as many more where some are slow",
        )
        parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--down", action="append", default=[], help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        """Supervise a child that works; SIGTERM gives running attempts a few seconds, then gives them back."""
        if options["threads"] < 1:
            raise CommandError("--threads must be at least 1", returncode=2)
        if options["child"] is not None:
            self._work(options)
        once = ["--once"] if options["once"] else []
        status = supervise([*once, "--threads", str(options["threads"])])
        if status:
            sys.exit(status)

    def _work(self, options: dict[str, Any]) -> NoReturn:
        """Carry deliveries as the supervisor's child, and end without waiting for threads in which handlers hang."""
        worker = Worker(options["threads"], options["down"])
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        watch = (worker.stop, options["parent"])
        threading.Thread(target=stop_with_parent, args=watch, name="parent", daemon=True).start()
        try:
            ending = worker.run(once=options["once"])
        except Error as error:
            say_orderly(options["child"])
            self.stderr.write(f"the database refuses: {kind(error)}; is it up, and migrated?")
            status = 1
        else:
            status = self._say(ending, worker.hung, options["child"])
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
