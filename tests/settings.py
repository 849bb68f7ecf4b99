"""Settings of the tests: a developer's `.env` and exported settings never reach them.

`TEST_DATABASE=postgresql` runs the rows' tests there, on the server that `TEST_POSTGRESQL_URL` names.
"""

import os
from pathlib import Path

from dingcallback.environment import isolated

CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache"
POSTGRESQL_URL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
DATABASE = os.environ.get("TEST_DATABASE", "sqlite")

CACHE.mkdir(exist_ok=True)
_environment = isolated(
    os.environ,
    SECRET_KEY="not-a-secret-but-long-enough-for-the-checks-of-django-0123456789",
    DATABASE_URL=POSTGRESQL_URL if DATABASE == "postgresql" else f"sqlite:///{CACHE / 'tests.sqlite3'}",
    DINGTALK_TOKEN="test-token-2026",
    DINGTALK_AES_KEY="k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0",
    DINGTALK_APP_KEY="dingtestappkey0001",
    DINGTALK_APP_SECRET="test-app-secret-0001",
    DINGTALK_CORP_ID="dingtestcorp0001",
    DINGTALK_CALLBACK_URL="http://127.0.0.1:8000/dingtalk/callback/",
    # Nothing listens on port 1: a test that talks to DingTalk starts a simulator and says so.
    DINGTALK_OAPI_URL="http://127.0.0.1:1",
    DINGTALK_API_URL="http://127.0.0.1:1",
    RETRY_SCHEDULE="1,1,1",
    RELAY_BLOCKED_NETWORKS="",  # the receivers of the tests are on loopback
)
_environment["DJANGO_SETTINGS_MODULE"] = "tests.settings"
os.environ.clear()
os.environ.update(_environment)

from dingcallback.settings import *  # noqa: E402, F403
from dingcallback.settings import DATABASES, INSTALLED_APPS  # noqa: E402

INSTALLED_APPS += ["tests.shop"]  # an app with handlers of its own, as whoever uses the service writes one
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# A file, not memory: threads and processes share it as they do in production. One for each run, so that two can go on.
_name = f"test_dingcallback_{os.getpid()}"
DATABASES["default"]["TEST"] = {"NAME": _name if DATABASE == "postgresql" else str(CACHE / f"{_name}.sqlite3")}
