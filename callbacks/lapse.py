"""When pushes may have gone unheard: before a start of the web server, at an answer that was no 200, or was late.

A push only says so in memory; a thread writes the row that whoever reads the failed list looks at.
"""

import logging
import threading
from datetime import timedelta

from django.db import connection
from django.db.models import F
from django.db.models.functions import Coalesce, Greatest, Now

from callbacks.deadline import in_time
from callbacks.models import Lapse

logger = logging.getLogger(__name__)

# An answer slower than this (seconds) may have come too late for DingTalk, which waits 1.5 s.
LATE = 1.0
AT_MOST_EVERY = 3.0

_noted = threading.Event()


def note() -> None:
    """Say that a push may just have gone unheard; it costs neither time nor the database's help."""
    _noted.set()


def start() -> None:
    """Write down what `note` says for as long as this process lives, and that pushes may have come before it did."""
    note()
    threading.Thread(target=_write, name="lapse", daemon=True).start()


def record() -> None:
    """Write the row; django.db.Error where the database can't."""
    Lapse.objects.get_or_create(pk=1)
    Lapse.objects.filter(pk=1).update(first_at=Coalesce(F("first_at"), Now()), last_at=Now())


def begun(ago: timedelta) -> bool:
    """Tell whether pushes may have gone unheard at least so long ago."""
    return Lapse.objects.filter(first_at__lte=Now() - ago).exists()


def made_up_for(ago: timedelta) -> None:
    """Record that all is made up for that is at least so long ago; what came later stays."""
    Lapse.objects.filter(last_at__lte=Now() - ago).update(first_at=None, last_at=None)
    Lapse.objects.filter(last_at__gt=Now() - ago).update(first_at=Greatest(F("first_at"), Now() - ago))


def _write() -> None:
    pause = threading.Event()
    while _noted.wait():
        _noted.clear()
        try:
            in_time(record)
        except Exception as error:  # noqa: BLE001 - a database out of reach is the very thing to be noted once it is back
            logger.debug("a lapse is not written yet: %s", type(error).__name__)
            connection.close()
            _noted.set()
        pause.wait(AT_MOST_EVERY)
