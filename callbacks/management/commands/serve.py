"""`manage.py serve`: the web server and a worker in the foreground, which `make run` starts."""

import os
import shlex
import signal
import sys
from typing import Any

import honcho.manager
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connection
from honcho.printer import Printer

from callbacks.ports import PortUnusable, port_number, require_free
from callbacks.web import GRANIAN_OPTIONS
from callbacks.worker import kind

# deliver gives running handlers up to 8 s; honcho's own 5 s would kill it first.
KILL_AFTER = 12


class Command(BaseCommand):
    """Run granian and `deliver` until Ctrl-C or SIGTERM; where one ends, end the other.

    Where workers on Celery carry the deliveries, `deliver` feeds them.
    """

    help = "Run the web server and a worker in the foreground; Ctrl-C or SIGTERM stops both."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --host, --port and --migrate."""
        parser.add_argument("--host", default=os.environ.get("HOST") or "127.0.0.1", help="default: HOST or 127.0.0.1")
        parser.add_argument("--port", default=os.environ.get("PORT") or "8000", help="default: PORT or 8000")
        parser.add_argument("--migrate", action="store_true", help="bring the database up to date first")

    def handle(self, *args: Any, **options: Any) -> None:
        """Start both and pass their output on."""
        host, port = options["host"], options["port"]
        try:
            require_free("PORT", host, port_number("PORT", port), "make run")
        except PortUnusable as error:
            raise CommandError(str(error)) from None
        if options["migrate"]:
            _migrate()
        python, manage = shlex.quote(sys.executable), shlex.quote(str(settings.BASE_DIR / "manage.py"))
        how = " ".join([*GRANIAN_OPTIONS[connection.vendor], "--host", shlex.quote(host), "--port", port])
        web = f"{python} -m granian --interface wsgi {how} dingcallback.wsgi:application"
        honcho.manager.KILL_WAIT = KILL_AFTER
        # a prefix would spoil one JSON object a line
        manager = honcho.manager.Manager(Printer(sys.stdout, prefix=settings.LOG_FORMAT == "text"))
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        manager.add_process("web", f"exec {web}", env=environment, cwd=settings.BASE_DIR)
        deliver = "deliver --feed" if settings.CELERY_BROKER_URL else "deliver"
        manager.add_process("worker", f"exec {python} {manage} {deliver}", env=environment, cwd=settings.BASE_DIR)
        # A closed terminal must end the children too.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        if settings.LOG_FORMAT == "text":
            site = f"http://{host}:{port}"
            self.stdout.write(f"callback {site}/dingtalk/callback/   admin {site}/admin/   Ctrl-C stops both")
            self.stdout.flush()
        manager.loop()
        stopped_by_us = manager.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        sys.exit(0 if stopped_by_us else manager.returncode or 1)


def _migrate() -> None:
    try:
        call_command("migrate", verbosity=0)
    except Error as error:
        raise CommandError(f"the database refuses: {kind(error)}; check DATABASE_URL and that it is up") from None
