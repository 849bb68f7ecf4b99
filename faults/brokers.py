"""A broker of the suite's own: a Redis or a RabbitMQ that it starts, stops, empties and reads."""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from amqp.basic_message import Message
from kombu import Connection

from faults.processes import Marked, Process
from simulator.ports import free_port

QUEUE = "dingcallback"
START_WITHIN = 60.0
RABBITMQ = Path(shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or "/nonexistent")
KINDS = ("rabbitmq", "redis")


class Broker:
    """A server on a port of its own, with its data in a folder, and the service's queue there."""

    def __init__(self, kind: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.kind = kind
        self.port = free_port()
        self.marked = Marked({**settings, **(_node(folder, self.port) if kind == "rabbitmq" else {})})
        host = f"127.0.0.1:{self.port}"
        self.url = f"redis://{host}/0" if kind == "redis" else f"amqp://guest:guest@{host}//"
        self._folder = folder
        self._process: Process | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        small = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command = [*small, "--save", ""] if self.kind == "redis" else [str(RABBITMQ)]
        self._process = self.marked.start(command, self._folder / "broker.log")
        end = time.monotonic() + START_WITHIN
        while True:
            try:
                with self._connection():
                    return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the server; SIGKILL is as good as a crash."""
        if number == signal.SIGKILL:
            self.end()
        elif self._process:
            self._process.send_signal(number)
            self._process.wait(60)

    def purge(self) -> int:
        """Forget the messages that wait; return how many they were."""
        with self._channel() as channel:
            return int(channel.queue_purge(QUEUE) or 0)

    def double(self) -> int:
        """Put a copy behind the first message that waits; return whether there was one."""
        if self.kind == "redis":
            with redis.Redis(port=self.port) as client:
                first = client.lindex(QUEUE, -1)
                return 0 if first is None else int(bool(client.lpush(QUEUE, str(first, "utf-8"))))
        with self._channel() as channel:
            message = channel.basic_get(QUEUE)
            if message is None:
                return 0
            channel.basic_publish(Message(message.body, **message.properties), exchange="", routing_key=QUEUE)
            channel.basic_reject(message.delivery_tag, requeue=True)
            return 1

    def end(self) -> None:
        """Kill the server."""
        if self._process:
            self._process.kill()  # Redis writes its title over its environment, and the mark
        self.marked.kill()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        with Connection(self.url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, errback=None, reraise_as_library_errors=False, timeout=2)
            yield connection

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with self._connection() as connection, connection.channel() as channel:
            yield channel


def missing_broker(kind: str) -> str:
    """Return why no such server can be started here, or ''."""
    if kind == "redis":
        return "" if shutil.which("redis-server") else "no Redis server is installed"
    return "" if RABBITMQ.exists() else "no RabbitMQ server is installed"


def _node(folder: Path, port: int) -> dict[str, str]:
    """Return the environment of a RabbitMQ node that shares nothing with another on this machine."""
    nowhere = str(folder / "nothing")
    return {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"faults{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": nowhere,
        "RABBITMQ_CONF_ENV_FILE": nowhere,
        "RABBITMQ_CONFIG_FILE": nowhere,
    }
