"""The service with the suite's handlers installed; all else comes from the environment that the suite gives."""

from dingcallback.settings import *  # noqa: F403
from dingcallback.settings import INSTALLED_APPS

INSTALLED_APPS += ["faults.ledger"]
