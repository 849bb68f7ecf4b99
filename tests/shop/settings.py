"""The service with this app installed, for processes that a test starts: all else comes from their environment."""

from dingcallback.settings import *  # noqa: F403
from dingcallback.settings import INSTALLED_APPS

INSTALLED_APPS += ["tests.shop"]
