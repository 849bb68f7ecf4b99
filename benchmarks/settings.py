"""The service with the benchmarks' handlers; all else comes from the environment."""

from dingcallback.settings import *  # noqa: F403
from dingcallback.settings import INSTALLED_APPS

INSTALLED_APPS += ["benchmarks"]
