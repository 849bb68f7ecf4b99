"""`trigger`: push a sample event to this service as DingTalk would."""

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from rich.console import RenderableType

from callbacks.models import Event
from registrar.addresses import malformed
from registrar.management.verbs.report import Options, Report, Verb, facts, table
from registrar.push import find_event, push
from simulator.samples import STYLES, make, parse_overrides

LOCAL_ADDRESS = "http://127.0.0.1:8000/dingtalk/callback/"


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("event_type", metavar="TYPE", help="event type, such as user_add_org; any name will do")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a field's value, as JSON or text; repeatable"
    )
    parser.add_argument("--style", choices=STYLES, default=STYLES[0], help="the shape, today's or an older one")
    parser.add_argument(
        "--url", default="", help=f"where to push; default: DINGTALK_CALLBACK_URL, else {LOCAL_ADDRESS}"
    )
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to wait for a worker; default 5")


def _trigger(options: Options) -> Report:
    try:
        overrides = parse_overrides(options["set"])
    except ValueError as error:
        raise CommandError(str(error), returncode=2) from None
    corp_id = settings.DINGTALK_CORP_ID or settings.DINGTALK_APP_KEY
    sample = make(options["event_type"], corp_id=corp_id, style=options["style"], overrides=overrides)
    url = options["url"] or settings.DINGTALK_CALLBACK_URL or LOCAL_ADDRESS
    if problem := malformed(url):
        raise CommandError(f"the address {problem}: give --url or DINGTALK_CALLBACK_URL such as {LOCAL_ADDRESS}")
    acknowledged = push(url, json.dumps(sample, ensure_ascii=False, separators=(",", ":")))
    event = find_event(acknowledged.payload, options["wait"])
    data = {
        "url": url,
        "payload": sample,
        "status": acknowledged.status,
        "milliseconds": acknowledged.milliseconds,
        "answer": "success",
        "event": event.pk if event else None,
        "deliveries": _deliveries(event) if event else [],
    }
    is_invented = "processInstanceId" in sample and sample["processInstanceId"] not in overrides.values()
    return Report(data, _shown(data, acknowledged.payload.is_validation, is_invented))


def _deliveries(event: Event) -> list[dict[str, Any]]:
    fields = ("destination", "state", "attempts", "result", "last_error")
    return list(event.deliveries.order_by("pk").values(*fields))


def _shown(data: dict[str, Any], is_validation: bool, is_invented: bool) -> list[RenderableType]:
    answer = f"{data['status']} `{data['answer']}` after {data['milliseconds']} ms"
    payload = json.dumps(data["payload"], ensure_ascii=False)
    shown: list[RenderableType] = [facts({"pushed to": data["url"], "payload": payload, "answer": answer})]
    if is_validation:
        return [*shown, "Answered; a question whether the address works is no event and is stored nowhere."]
    if data["event"] is None:
        return [*shown, "Acknowledged, but there is no such event in this database: the address belongs to another."]
    if not data["deliveries"]:
        return [*shown, f"Stored as event {data['event']}; no handler wants it."]
    deliveries = table("destination", "state", "attempts", "result or error")
    for row in data["deliveries"]:
        result = "" if row["result"] is None else json.dumps(row["result"], ensure_ascii=False)
        outcome = row["last_error"] or result
        deliveries.add_row(row["destination"], row["state"], str(row["attempts"]), outcome)
    sentence = f"Stored as event {data['event']}."
    if is_invented:
        sentence += " DingTalk knows no such instance: name a real one with --set processInstanceId=…"
    if any(row["state"] == "pending" and not row["attempts"] for row in data["deliveries"]):
        sentence += " No worker has taken it up yet: start `manage.py deliver`."
    return [*shown, deliveries, sentence]


TRIGGER = Verb(
    "trigger",
    "push a sample event to the callback address, sealed as DingTalk seals it",
    "manage.py dingtalk trigger bpms_instance_change --set type=finish --set result=agree",
    _add_arguments,
    _trigger,
)
