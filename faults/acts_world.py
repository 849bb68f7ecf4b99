"""Faults of what the service depends on and what it is sent: DingTalk's API and pushes, clocks, handlers, rows."""

import signal
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psycopg

from faults.databases import Database
from faults.plan import fault
from faults.service import WEB_NAME
from faults.stage import Stage
from simulator.load import run

API_FAULTS = ("slow", "500", "busy", "throttled", "half", "drop", "html", "punish", "token_expired", "revoked")
AN_HOUR = 3600
NEWEST = "SELECT {} FROM callbacks_event ORDER BY id DESC LIMIT 1"
EPOCH = {"sqlite": "unixepoch(received_at)", "postgresql": "extract(epoch FROM received_at)::float"}
# Pushes carry DingTalk's time, which is right: an hour off, the service would refuse them all as stale.
CLOCKS = {"CALLBACK_MAX_AGE": "7200"}


@fault("DingTalk's API slow, 5xx, busy, throttled, cut off half-way, dropping, its tokens revoked")
def break_api(stage: Stage) -> None:
    """Let calls go wrong at random, those for a token too."""
    for _ in range(stage.times(80)):
        kind = stage.random.choice(API_FAULTS)
        if kind == "revoked":
            stage.simulator.revoke_tokens()
        else:
            stage.simulator.fail("*", kind)
        stage.pause(0.05, 0.4)
    while stage.simulator.dingtalk.faults.take("*"):
        pass


@fault("the clock moved an hour ahead (of PostgreSQL, too)", clock=True, rate=5, settings=CLOCKS)
def clock_ahead(stage: Stage) -> None:
    """Move it and leave it there."""
    stage.set_clock(AN_HOUR)
    stage.last(15)
    _note_clock(stage)


@fault("the clock moved an hour back (of PostgreSQL, too), later put right", clock=True, rate=5, settings=CLOCKS)
def clock_back(stage: Stage) -> None:
    """Move it, and put it right in the end: until then, what was due just before is not due."""
    stage.set_clock(-AN_HOUR)
    stage.last(15)
    _note_clock(stage)
    stage.set_clock(0)


def _note_clock(stage: Stage) -> None:
    ((newest,),) = stage.database.run(NEWEST.format(EPOCH[stage.database.vendor]))
    stage.note += f" The newest event was stamped {newest - time.time():+.0f} s off."


@fault("each event pushed 50 times over 20 connections, half of them under another eventId")
def duplicate_storm(stage: Stage) -> None:
    """Push the copies of an event at the same time."""
    events = [stage.load.payload() for _ in range(stage.times(60))]
    copies = [{**event, **({"eventId": f"twin{copy}"} if copy % 2 else {})} for event in events for copy in range(50)]
    credentials = (
        stage.settings["DINGTALK_TOKEN"],
        stage.settings["DINGTALK_AES_KEY"],
        stage.settings["DINGTALK_APP_KEY"],
    )
    report = run(stage.service.url, *credentials, connections=20, payloads=copies)
    stage.extra_pushes += len(copies)
    stage.extra_sent |= {event["reference"] for event in events}
    stage.extra_acknowledged |= {str(payload["reference"]) for payload in report.acknowledged}


@fault("pushes stored but answered too late (SIGSTOP of the web server), and retried out of order", rate=40)
def late_answers(stage: Stage) -> None:
    """Stop the web server for longer than DingTalk waits."""
    for _ in range(stage.times(10)):
        stage.service.strike(WEB_NAME, signal.SIGSTOP, child=True)
        stage.pause(1.2, 2.2)
        stage.service.strike(WEB_NAME, signal.SIGCONT, child=True)
        stage.pause(0.2, 1)


@fault("a constraint that refuses new events for some seconds")
def refuse_rows(stage: Stage) -> None:
    """Have a unique index that only a few more events fit into, as a mistake in maintenance would."""
    for _ in range(stage.times(5)):
        while not _index_made(stage.database):
            pass
        try:
            stage.pause(2, 3)
        finally:
            stage.database.run("DROP INDEX faults_refuses")
        stage.pause(1, 2)


def _index_made(database: Database) -> bool:
    ((last,),) = database.run("SELECT max(id) FROM callbacks_event")
    try:
        database.run(f"CREATE UNIQUE INDEX faults_refuses ON callbacks_event (source) WHERE id > {last + 10}")
    except (sqlite3.IntegrityError, psycopg.errors.UniqueViolation):  # more than fit into it have come meanwhile
        return False
    return True


def now_and_then(act: str, every: int) -> Callable[[int], dict[str, Any]]:
    """Return what makes one event of so many go wrong at first, and every second of those always with `poison`."""

    def spice(number: int) -> dict[str, Any]:
        if number % every:
            return {}
        return {"act": act, "until": 1, "poison": int(number % (2 * every) == 0)}

    return spice


@fault("handlers that raise, after they have written", spice=now_and_then("raise", 4))
def raising_handlers(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


@fault("handlers that hang until their time is over", spice=now_and_then("hang", 40))
def hanging_handlers(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


@fault("handlers that end their process, after they have written", spice=now_and_then("exit", 25))
def exiting_handlers(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


@fault(
    "handlers that eat memory until there is no more (RLIMIT_AS of 2 GiB)",
    spice=now_and_then("memory", 15),
    before_worker=("prlimit", "--as=2147483648", "--"),
)
def greedy_handlers(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


@fault(
    "four workers, four events of each subject at the same time, and handlers that refuse one event in three",
    workers=4,
    together=4,
    rate=30,
    spice=lambda number: {"act": "raise", "until": 1} if number % 3 == 0 else {},
)
def crowd_subjects(stage: Stage) -> None:
    """Let the workers meet at the same subjects, which no later event sets in motion again."""
    stage.last(30)
