"""The web server's entry: `granian --interface wsgi dingcallback.wsgi:application`."""

import os

from django.core.wsgi import get_wsgi_application

from dingcallback.startup import refuse_unsound_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dingcallback.settings")
_application = get_wsgi_application()

refuse_unsound_settings()

from callbacks import lapse, middleware, wakeup, watch  # noqa: E402 - needs the apps that get_wsgi_application loads

application = middleware.forget_charset(_application)
watch.start()
lapse.start()
wakeup.start()
