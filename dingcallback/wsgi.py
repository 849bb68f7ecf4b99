"""The web server's entry: `granian --interface wsgi dingcallback.wsgi:application`."""

import os
import sys

from django.core.checks import ERROR, run_checks
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dingcallback.settings")
_application = get_wsgi_application()

# A web server imports this module and no command of Django's, so nothing else would run the system checks.
_errors = [message for message in run_checks() if message.level >= ERROR and not message.is_silenced()]
if _errors:
    for _message in _errors:
        sys.stderr.write(f"{_message.id}: {' '.join(filter(None, [_message.msg, _message.hint]))}\n")
    sys.exit(1)

from callbacks import lapse, middleware, wakeup, watch  # noqa: E402 - needs the apps that get_wsgi_application loads

application = middleware.forget_charset(_application)
watch.start()
lapse.start()
wakeup.start()
