"""Settings from the environment and `.env`; `.env.example` lists them all.

Nothing here raises on a bad value: see `dingcallback/environment.py`.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url

from callbacks.addresses import DEFAULT_BLOCKED
from dingcallback.environment import Environment

BASE_DIR = Path(__file__).resolve().parent.parent

env = Environment.load(Path(os.environ.get("ENV_FILE", BASE_DIR / ".env")))
ENVIRONMENT_ERRORS = env.errors

# Django

SECRET_KEY = env.secret("SECRET_KEY")
if not SECRET_KEY:
    env.refuse(
        "SECRET_KEY", "is missing", "copy .env.example to .env and put into it what `manage.py dingtalk keygen` prints"
    )
SECRET_KEY_FALLBACKS = env.secrets("SECRET_KEY_FALLBACKS")
DEBUG = env.boolean("DEBUG", False)

# DingTalk (https://open.dingtalk.com)

DINGTALK_APP_KEY = env.text("DINGTALK_APP_KEY")
DINGTALK_APP_SECRET = env.secret("DINGTALK_APP_SECRET")
DINGTALK_CORP_ID = env.text("DINGTALK_CORP_ID")
DINGTALK_TOKEN = env.secret("DINGTALK_TOKEN")
DINGTALK_AES_KEY = env.secret("DINGTALK_AES_KEY")
DINGTALK_PREVIOUS_TOKEN = env.secret("DINGTALK_PREVIOUS_TOKEN")
DINGTALK_PREVIOUS_AES_KEY = env.secret("DINGTALK_PREVIOUS_AES_KEY")
DINGTALK_CALLBACK_URL = env.text("DINGTALK_CALLBACK_URL")
DINGTALK_CALLBACK_TAGS = env.names(
    "DINGTALK_CALLBACK_TAGS",
    [
        "bpms_instance_change",
        "bpms_task_change",
        "user_add_org",
        "user_leave_org",
        "org_dept_create",
        "org_dept_modify",
        "org_dept_remove",
    ],
)
DINGTALK_OAPI_URL = env.text("DINGTALK_OAPI_URL", "https://oapi.dingtalk.com").rstrip("/")
DINGTALK_API_URL = env.text("DINGTALK_API_URL", "https://api.dingtalk.com").rstrip("/")
DINGTALK_WORKFLOW_API = env.choice("DINGTALK_WORKFLOW_API", "auto", ["auto", "topapi", "v1.0"])
DINGTALK_MONTHLY_CALLS = env.integer("DINGTALK_MONTHLY_CALLS", 5000, minimum=1)
DINGTALK_CALLS_PER_SECOND = env.integer("DINGTALK_CALLS_PER_SECOND", 20)
FAILED_LIST_WATCH = env.integer("FAILED_LIST_WATCH", 0)

# The callback and what becomes of its events

CALLBACK_MAX_AGE = env.integer("CALLBACK_MAX_AGE", 3600)
WORK_ORDER_HANDLER = env.text("WORK_ORDER_HANDLER", "callbacks.handlers.log_work_order")
HANDLER_TIMEOUT = env.integer("HANDLER_TIMEOUT", 60, minimum=1)
RETRY_SCHEDULE = env.integers("RETRY_SCHEDULE", [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400])

# Workers on Celery, if any: they take what `manage.py deliver --feed` puts into the queue

CELERY_BROKER_URL = env.brokers("CELERY_BROKER_URL")
CELERY_QUEUE = env.text("CELERY_QUEUE", "dingcallback")
CELERY_APPLICATION = "dingcallback.celery"
FEED_AHEAD = env.integer("FEED_AHEAD", 8, minimum=1)

# The relay to endpoints

ENDPOINT_DISABLE_AFTER = env.integer("ENDPOINT_DISABLE_AFTER", 259200, minimum=1)
RELAY_BLOCKED_NETWORKS = env.networks("RELAY_BLOCKED_NETWORKS", DEFAULT_BLOCKED)
FIELD_ENCRYPTION_KEYS = env.secrets("FIELD_ENCRYPTION_KEYS", shortest=32)

# Who may reach the pages

try:
    _callback = urlsplit(DINGTALK_CALLBACK_URL)
except ValueError:  # a system check says so
    _callback = urlsplit("")
_own_hosts = [_callback.hostname] if _callback.hostname else []
_own_origins = [f"{_callback.scheme}://{_callback.netloc}"] if _callback.netloc else []
ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", [*_own_hosts, "localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.names("CSRF_TRUSTED_ORIGINS", _own_origins)
TRUST_PROXY_HEADERS = env.boolean("TRUST_PROXY_HEADERS", False)
if TRUST_PROXY_HEADERS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
_https = _callback.scheme == "https"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https and not DEBUG

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "callbacks",
    "registrar",
    "simulator",
    *env.apps("EXTRA_APPS"),
]

MIDDLEWARE = [
    "callbacks.middleware.AnswerMachinesFirst",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "dingcallback.urls"
WSGI_APPLICATION = "dingcallback.wsgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# Database: SQLite in one file, or PostgreSQL by DATABASE_URL

SQLITE_OPTIONS: dict[str, Any] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 30,
    # A file that somebody holds exclusively must not hold up a push while connecting; then `callbacks.sqlite` waits.
    "init_command": "PRAGMA busy_timeout=300; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=0;",
}
# So that a server or a network that is gone without a word shows within a minute, wherever something waits for it.
KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
_sqlite_default = f"sqlite:///{BASE_DIR / 'db.sqlite3'}"
_supported = "use sqlite:///path/to/file or postgresql://user:password@host:port/name"
try:
    _database: dict[str, Any] = dict(dj_database_url.parse(env.secret("DATABASE_URL", _sqlite_default)))
except Exception:  # noqa: BLE001 - the library raises several kinds, some with the URL and its password in their text
    env.refuse("DATABASE_URL", "is no database address that this service understands", _supported)
    _database = dict(dj_database_url.parse(_sqlite_default))
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["ENGINE"] = "callbacks.sqlite"
    _database["OPTIONS"] = {**_database.get("OPTIONS", {}), **SQLITE_OPTIONS}
elif _database["ENGINE"] == "django.db.backends.postgresql":
    if not _database["NAME"]:
        env.refuse("DATABASE_URL", "names no database", _supported)
    _database["ENGINE"] = "callbacks.postgresql"
    _database["OPTIONS"] = {"connect_timeout": 2, **KEEPALIVE, **_database.get("OPTIONS", {})}
    # A pooler gives the next transaction another session, in which there is no such cursor.
    _database["DISABLE_SERVER_SIDE_CURSORS"] = True
else:
    env.refuse("DATABASE_URL", f"names the engine {_database['ENGINE'].rsplit('.', 1)[-1]}", _supported)
    _database = dict(dj_database_url.parse(_sqlite_default))
_database["CONN_MAX_AGE"] = None  # threads are few and live long, in the web server as in the worker
DATABASES: dict[str, dict[str, Any]] = {"default": _database}
DATABASE_DIRECT: dict[str, Any] = {}  # where workers listen, if DATABASE_URL is a pooler
if _direct_url := env.secret("DATABASE_DIRECT_URL"):
    try:
        DATABASE_DIRECT = dict(dj_database_url.parse(_direct_url))
        DATABASE_DIRECT["OPTIONS"] = {"connect_timeout": 2, **KEEPALIVE, **DATABASE_DIRECT.get("OPTIONS", {})}
    except Exception:  # noqa: BLE001 - as above
        DATABASE_DIRECT = {}
    if DATABASE_DIRECT.get("ENGINE") != "django.db.backends.postgresql":
        _postgresql = "use postgresql://user:password@host:port/name, or remove it"
        env.refuse("DATABASE_DIRECT_URL", "is no address of a PostgreSQL server", _postgresql)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGE_CODE = env.choice("LANGUAGE_CODE", "zh-hans", ["zh-hans", "en", "en-us"])
LANGUAGES = [("zh-hans", "简体中文"), ("en", "English")]
TIME_ZONE = env.time_zone("TIME_ZONE", "Asia/Shanghai")
USE_TZ = True

STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

# nginx in front decides about HTTPS: a redirect of ours would break the callback (DingTalk refuses 3xx) and health
# checks, and HSTS belongs to whoever owns the whole host name.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]

LOG_FORMAT = env.choice("LOG_FORMAT", "text", ["text", "json"])
LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {"()": "dingcallback.logs.JsonFormatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        # a refused push has a line of its own, which says why
        "django.request": {"level": "ERROR"},
        # answered with 400; a public address hears of many wrong host names
        "django.security.DisallowedHost": {"handlers": [], "level": "CRITICAL"},
    }
    | {
        name: {"handlers": ["console"], "level": LOG_LEVEL, "propagate": False}
        for name in ("callbacks", "registrar", "simulator", "dingcallback", "django")
    },
}
