"""A thread of the web process that warns when deliveries are due and nobody carries them."""

import logging
import threading

from django.db import Error, close_old_connections, connection

from callbacks.outbox import unattended

logger = logging.getLogger(__name__)

INTERVAL = 60.0


def start() -> None:
    """Look once a minute for as long as the process lives."""
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def look() -> None:
    """Log a warning if deliveries have been due for a minute with no sign of a worker."""
    count = unattended()
    if count:
        logger.warning("%s deliveries are due and no worker has claimed them: start `manage.py deliver`", count)


def _watch() -> None:
    pause = threading.Event()
    while not pause.wait(INTERVAL):
        try:
            close_old_connections()
            look()
        except Error:
            connection.close()  # the pushes themselves report a database that is out of reach
