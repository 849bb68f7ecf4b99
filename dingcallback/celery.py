"""The Celery application, for teams that run workers on it: `celery -A dingcallback worker`.

The rows are the truth and Celery a pair of hands: it retries nothing, keeps no results, and may run a task twice.
"""

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import celeryd_init, setup_logging
from django.conf import settings

from callbacks import idleness
from dingcallback.startup import refuse_unsound_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dingcallback.settings")

app = Celery("dingcallback", broker=settings.CELERY_BROKER_URL)
app.conf.update(
    include=["callbacks.tasks"],
    task_default_queue=settings.CELERY_QUEUE,
    task_ignore_result=True,
    # A message leaves the queue when its attempt has ended; one that comes again starts nothing.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # What one process holds back, another could do.
    worker_prefetch_multiplier=1,
    broker_connection_timeout=4,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
if settings.CELERY_BROKER_URL.startswith(("redis", "sentinel")):
    app.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 4}
else:
    app.conf.broker_transport_options = {"confirm_publish": True}


@celeryd_init.connect
def _refuse_unsound_settings(**_: Any) -> None:
    """Let no worker start with settings that stop everything else, or at a broker that nobody named.

    Its processes are made from this one, and have its limits.
    """
    if not settings.CELERY_BROKER_URL and not settings.ENVIRONMENT_ERRORS:
        sys.stderr.write("CELERY_BROKER_URL is empty: set it to your broker's address, or run `manage.py deliver`\n")
        sys.exit(1)
    refuse_unsound_settings()
    idleness.limit()


@setup_logging.connect
def _keep_logging(**_: Any) -> None:
    """Leave logging as the settings have it: LOG_FORMAT and LOG_LEVEL are for Celery's workers, too."""
