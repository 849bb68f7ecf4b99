"""What can be done to a running simulator over HTTP, under `/_simulator/`."""

from typing import Any

from simulator.messages import Answer, Request, as_json
from simulator.pushing import Push
from simulator.samples import make
from simulator.simulation import Simulation

PREFIX = "/_simulator/"
FRONT = """\
This is a DingTalk for development: it answers gettoken, the call_back APIs and the approval instances' APIs,
and pushes encrypted events to the callback that is registered with it.

  curl -d '{"event_type": "user_add_org"}' %(url)s/_simulator/push
  curl -d '{"event_type": "bpms_instance_change", "set": {"type": "start"}}' %(url)s/_simulator/push
  curl -d '{"event_type": "user_add_org", "fault": "signature"}' %(url)s/_simulator/push
  curl -d '{"set": {"type": "finish", "processInstanceId": "i-1"}}' %(url)s/_simulator/happen
  curl -d '{"path": "/gettoken", "fault": "busy", "times": 2}' %(url)s/_simulator/fail
  curl -d '{"call_back_tag": "user_add_org", "event_time": 1, "user_add_org": {}}' %(url)s/_simulator/failed-list
  curl %(url)s/_simulator/state

`manage.py simulator --help` explains the rest.
"""


def front(url: str) -> Answer:
    """Return the page that says what this is."""
    return Answer((FRONT % {"url": url}).encode(), content_type="text/plain;charset=UTF-8")


def answer(simulation: Simulation, request: Request) -> Answer:
    """Do what is asked, and tell what came of it; 400 with the reason where it can't be done."""
    name = request.path.removeprefix(PREFIX)
    if name == "state":
        return as_json(simulation.state())
    verb = {"push": _push, "fail": _fail, "failed-list": _failed_list, "happen": _happen}.get(name)
    if verb is None:
        return as_json(
            {"error": f"no such path; there are happen, push, fail, failed-list and state under {PREFIX}"}, 404
        )
    if request.method != "POST":
        return as_json({"error": "POST this"}, 405)
    try:
        return as_json(verb(simulation, request.fields()))
    except ValueError as error:
        return as_json({"error": str(error)}, 400)


def _push(simulation: Simulation, fields: dict[str, Any]) -> dict[str, Any]:
    what = fields.get("payload", fields.get("event_type"))
    if not isinstance(what, (dict, str)) or not what:
        raise ValueError("`event_type` (a name) or `payload` (an object) is missing")
    overrides = fields.get("set", {})
    if not isinstance(overrides, dict):
        raise ValueError("`set` is no object")
    how: dict[str, Any] = {"style": fields.get("style"), "overrides": overrides}
    if "fault" in fields:
        pushes = simulation.push_fault(str(fields["fault"]), what, count=int(fields.get("count", 2)), **how)
    else:
        pushes = [simulation.push(what, **how) for _ in range(int(fields.get("count", 1)))]
    for push in pushes:
        push.wait_tried()
    return {"pushes": [_told(push) for push in pushes]}


def _happen(simulation: Simulation, fields: dict[str, Any]) -> dict[str, Any]:
    overrides = fields.get("set", {})
    if not isinstance(overrides, dict):
        raise ValueError("`set` is no object")
    payload = make("bpms_instance_change", corp_id=simulation.options.corp_id, overrides=overrides)
    simulation.happen(payload)
    return {"payload": payload}


def _told(push: Push) -> dict[str, Any]:
    attempts = [{"status": a.status, "reason": a.reason, "seconds": round(a.seconds, 4)} for a in push.attempts]
    return {
        "acknowledged": push.acknowledged,
        "done": push.done(),
        "reason": push.reason,
        "attempts": attempts,
        "payload": push.payload,
    }


def _fail(simulation: Simulation, fields: dict[str, Any]) -> dict[str, Any]:
    simulation.fail(str(fields.get("path", "*")), str(fields.get("fault", "")), int(fields.get("times", 1)))
    return {"faults": simulation.dingtalk.faults.waiting()}


def _failed_list(simulation: Simulation, fields: dict[str, Any]) -> dict[str, Any]:
    entries = fields.get("entries", [fields])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("`entries` is no list of objects")
    for entry in entries:
        simulation.add_failed(entry)
    return {"failed_list": len(simulation.dingtalk.failed_list)}
