"""A PgBouncer in transaction mode, in front of the tests' PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from simulator.ports import free_port
from tests.processes import Process, database_url, wait_until
from tests.settings import POSTGRESQL_URL

MISSING = "" if shutil.which("pgbouncer") else "PgBouncer is not installed"

# Two sessions for everybody, so that hardly anyone gets the one that he had before.
CONFIGURATION = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
max_prepared_statements = 0
admin_users = {user}
"""


class Pooler(NamedTuple):
    """A pooler's process, and the address of the test's database there."""

    process: Process
    url: str


@contextmanager
def pooler() -> Iterator[Pooler]:
    """Run a pooler of the test's database."""
    server = urlsplit(POSTGRESQL_URL)
    user, listen = server.username or "postgres", free_port()
    given = {"host": server.hostname, "port": server.port or 5432, "user": user, "password": server.password}
    text = CONFIGURATION.format(
        server=" ".join(f"{name}={value}" for name, value in given.items() if value), user=user, listen=listen
    )
    account: dict[str, Any] = (
        {"user": pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else {}
    )  # it refuses to be root
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(text)
        process = subprocess.Popen(["pgbouncer", "--quiet", str(configuration)], cwd="/", **account)
        try:
            netloc = f"{user}@127.0.0.1:{listen}"
            url = urlsplit(database_url())._replace(netloc=netloc).geturl()
            wait_until(lambda: _answers(url))
            yield Pooler(process, url)
        finally:
            process.kill()
            process.wait(10)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:  # not yet
        return False
    return True
