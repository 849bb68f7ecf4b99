"""`manage.py deliver`: carry due deliveries to their destinations."""

import logging
import os
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from callbacks.worker import Worker


class Command(BaseCommand):
    """Run a worker until SIGTERM or Ctrl-C."""

    help = "Carry due deliveries to their destinations until SIGTERM or Ctrl-C; unfinished ones are given back."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --once and --threads."""
        parser.add_argument("--once", action="store_true", help="until no delivery is due, then exit")
        parser.add_argument("--threads", type=int, default=4, help="attempts at the same time (default 4)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until stopped; SIGTERM gives running attempts a few seconds, a second one none."""
        if options["threads"] < 1:
            raise CommandError("--threads must be at least 1", returncode=2)
        worker = Worker(options["threads"])

        def stop(signum: int, frame: Any) -> None:
            signal.signal(signum, signal.SIG_DFL)
            worker.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        try:
            finished = worker.run(once=options["once"])
        except Error as error:
            raise CommandError(f"the database refuses: {str(error).strip()}; is it up, and migrated?") from error
        self.stdout.write("deliver: stopped" if finished else "deliver: stopped, unfinished attempts were given back")
        self.stdout.flush()
        if not finished:
            # A thread still runs a handler whose delivery is already due for another worker: end it at once.
            logging.shutdown()
            os._exit(0)
