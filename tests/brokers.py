"""Brokers for a test alone: a Redis that it starts itself, and a queue of its own on this machine's RabbitMQ."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis
from amqp.basic_message import Message
from kombu import Connection

from simulator.ports import free_port
from tests.conftest import needs_service, reachable
from tests.processes import wait_until

RABBITMQ_URL = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
KINDS = ("rabbitmq", "redis")


@dataclass(frozen=True)
class Broker:
    """A broker's address, and the queue that the test has there."""

    kind: str
    url: str
    queue: str

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of processes that use it."""
        return {"CELERY_BROKER_URL": self.url, "CELERY_QUEUE": self.queue}

    def waiting(self) -> int:
        """Return how many messages wait."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                return int(client.llen(self.queue))
        with _channel(self.url) as channel:
            return int(channel.queue_declare(self.queue, passive=True).message_count)

    def purge(self) -> int:
        """Forget the messages that wait; return how many they were."""
        with _channel(self.url) as channel:
            return int(channel.queue_purge(self.queue) or 0)

    def double(self) -> None:
        """Put a copy behind the first message that waits."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                client.lpush(self.queue, str(client.lindex(self.queue, -1), "utf-8"))
            return
        with _channel(self.url) as channel:
            message = channel.basic_get(self.queue, no_ack=False)
            copy = Message(message.body, **message.properties)
            channel.basic_publish(copy, exchange="", routing_key=self.queue)
            channel.basic_reject(message.delivery_tag, requeue=True)


@contextmanager
def _channel(url: str) -> Iterator[Any]:
    with Connection(url) as connection, connection.channel() as channel:
        yield channel


def missing(kind: str) -> str:
    """Return why there can be no such broker here, or ''."""
    if kind == "redis":
        return "" if shutil.which("redis-server") else "redis-server is not installed"
    return "" if reachable(RABBITMQ_URL) else "RabbitMQ is not reachable (TEST_RABBITMQ_URL)"


def kinds() -> list[object]:
    """Return a parameter for each kind of broker, skipped where there is none."""
    return [
        pytest.param(kind, id=kind, marks=[needs_service(missing(kind))] if missing(kind) else []) for kind in KINDS
    ]


@contextmanager
def broker(kind: str) -> Iterator[Broker]:
    """Have a broker of a kind, with an empty queue that nobody else uses."""
    queue = f"test-{uuid4().hex}"
    if kind == "redis":
        port = free_port()
        with redis_server(port):
            yield Broker(kind, f"redis://127.0.0.1:{port}/0", queue)
        return
    with _channel(RABBITMQ_URL) as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False)
    try:
        yield Broker(kind, RABBITMQ_URL, queue)
    finally:
        with _channel(RABBITMQ_URL) as channel:
            channel.queue_delete(queue)
            channel.exchange_delete(queue)


@contextmanager
def redis_server(port: int) -> Iterator[None]:
    """Run a Redis that keeps nothing on disk."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd="/") as process:
        try:
            with redis.Redis(port=port) as client:
                wait_until(lambda: _answers(client))
            yield
        finally:
            process.kill()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
