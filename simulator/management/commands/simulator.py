"""`manage.py simulator`: a DingTalk on this machine, for whoever writes a receiver of its events."""

import argparse
import os
import signal
import threading
from dataclasses import Field, fields
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from simulator.receiver import SimulatorError
from simulator.samples import parse_overrides
from simulator.server import Options, Simulator

HELP = """\
A DingTalk on this machine, for whoever writes a receiver of its events. It needs no settings.

It answers gettoken, the five call_back APIs, topapi/processinstance/get and listids, v1.0/workflow/processInstances and
processes/instanceIds/query. A callback is registered as it is with DingTalk: the simulator first POSTs an encrypted
check_url to the address, and the receiver must answer with an encrypted success. Then events are pushed to it: refused
or late ones again after 10 and 30 seconds, and after that they are on the failed list.
"""
EXAMPLES = """\
How to try a receiver that listens on port 8000 (S is the simulator's address):

  S=http://127.0.0.1:8001
  manage.py simulator &
  curl "$S/gettoken?appkey=dingsimulatorapp01&appsecret=simulator-app-secret-01"
  curl "$S/call_back/register_call_back?access_token=TOKEN_FROM_ABOVE" -H 'Content-Type: application/json' -d '{
    "call_back_tag": ["user_add_org"], "token": "my-token", "url": "http://127.0.0.1:8000/callback",
    "aes_key": "43 letters and digits that the receiver has, too"}'

The receiver opens pushes with that token and key and the owner key of --corp-id. Then push an event, any of the
documented types or JSON of your own, and read in the answer what the receiver said:

  curl -d '{"event_type": "user_add_org"}' $S/_simulator/push
  curl -d '{"event_type": "bpms_instance_change", "set": {"type": "finish", "result": "agree"}}' $S/_simulator/push
  curl -d '{"payload": {"EventType": "mine", "n": 1}, "count": 3}' $S/_simulator/push

Things that go wrong, one at a time. Pushes: signature, owner_key, aes_key, padding, ciphertext, stale, json, duplicate,
twin, reordered, burst. APIs: slow, timeout, half, drop, 500, html, punish, busy, throttled, penalty, quota,
token_expired, token_invalid, permission, ip. `happen` lets an approval's step happen that is pushed to nobody.

  curl -d '{"event_type": "user_add_org", "fault": "signature"}' $S/_simulator/push
  curl -d '{"fault": "burst", "event_type": "user_add_org", "count": 50}' $S/_simulator/push
  curl -d '{"path": "/topapi/processinstance/get", "fault": "throttled", "times": 2}' $S/_simulator/fail
  curl -d '{"set": {"type": "start", "processInstanceId": "i-1"}}' $S/_simulator/happen
  curl $S/_simulator/state

A receiver whose address is saved in the console is sealed for the app key: give --subscribe, --token and --aes-key.
"""


class Command(BaseCommand):
    """Run a simulator in the foreground until Ctrl-C or SIGTERM."""

    help = HELP
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the examples' line breaks."""
        kwargs.update(formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        """Make a flag of every option."""
        for option in fields(Options):
            parser.add_argument(_flag(option), default=option.default, **_how(option))
        # As text: argparse converts it, and says so where it can't.
        parser.set_defaults(port=os.environ.get("SIMULATOR_PORT", "8001"))
        parser.add_argument("--push-every", type=float, metavar="SECONDS", help="push a sample again and again")
        parser.add_argument("--push-type", default="user_add_org", metavar="TYPE", help="type of those samples")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of those samples")
        parser.add_argument(
            "--subscribe", metavar="URL", help="subscribe this address at the start, as the console does"
        )
        parser.add_argument("--token", default="", help="the token for --subscribe")
        parser.add_argument("--aes-key", default="", help="the aes key for --subscribe")

    def handle(self, *_args: Any, **flags: Any) -> None:
        """Serve, push, and say at the end how much was acknowledged."""
        simulator = Simulator(Options(**{option.name: flags[option.name] for option in fields(Options)}))
        try:
            overrides = parse_overrides(flags["set"])
            simulator.start()
        except (ValueError, OSError) as error:
            raise CommandError(f"the simulator can't start: {error}") from None
        stopped = threading.Event()
        previous = {
            number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._welcome(simulator)
            if flags["subscribe"]:
                simulator.subscribe(flags["subscribe"], flags["token"], flags["aes_key"])
            while not stopped.wait(flags["push_every"]):
                simulator.push(flags["push_type"], overrides=overrides)
        except SimulatorError as error:
            raise CommandError(str(error)) from None
        finally:
            simulator.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.stdout.write(f"Stopped after {len(simulator.acknowledged)} acknowledged pushes.")

    def _welcome(self, simulator: Simulator) -> None:
        options = simulator.options
        self.stdout.write(
            f"DingTalk simulator at {simulator.url}\n"
            "Point a receiver at it:\n"
            f"  DINGTALK_OAPI_URL={simulator.url}\n"
            f"  DINGTALK_API_URL={simulator.url}\n"
            f"  DINGTALK_APP_KEY={options.app_key}\n"
            f"  DINGTALK_APP_SECRET={options.app_secret}\n"
            f"  DINGTALK_CORP_ID={options.corp_id}\n"
            "`manage.py simulator --help` shows how to register a callback, push events and make things go wrong."
        )
        self.stdout.flush()


def _flag(option: "Field[Any]") -> str:
    return "--" + option.name.replace("_", "-")


def _how(option: "Field[Any]") -> dict[str, Any]:
    """Return an option's argparse arguments but its name and default."""
    text, default = option.metadata["help"], option.default
    if isinstance(default, bool):
        return {"help": text, "action": argparse.BooleanOptionalAction}
    if isinstance(default, tuple):
        return {"help": text, "type": _numbers, "metavar": "SECONDS"}
    if option.metadata["choices"]:
        return {"help": text, "choices": option.metadata["choices"]}
    return {"help": f"{text} (default %(default)s)", "type": type(default), "metavar": type(default).__name__.upper()}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
