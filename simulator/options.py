"""Everything about the simulator that can be switched; the command makes a flag of each."""

from dataclasses import dataclass, field
from typing import Any

from simulator.styles import STYLES

OWNER_KEY_KINDS = ("corp", "app")
QUERY_NAMES = ("signature", "both", "msg_signature")
FAILED_SHAPES = ("callbackData", "inlined", "flat")


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Options:
    """How a simulator behaves; times in seconds."""

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(0, "port to listen on; 0: a free one")
    app_key: str = _option("dingsimulatorapp01", "app key (Client ID) that gettoken accepts")
    app_secret: str = _option("simulator-app-secret-01", "app secret that gettoken accepts", secret=True)
    corp_id: str = _option("dingsimulatorcorp01", "corp id in the events")
    owner_key_kind: str = _option(
        "corp", "what a callback registered through the API is sealed for: the corp id or the app key", OWNER_KEY_KINDS
    )
    query_names: str = _option("signature", "how the query names the signature", QUERY_NAMES)
    style: str = _option(STYLES[0], "shape of the pushed events", STYLES)
    time_limit: float = _option(1.5, "seconds the receiver has to answer a push, never scaled")
    retry_delays: tuple[float, ...] = _option((10.0, 30.0), "seconds before each further try, comma-separated")
    failed_list_delay: float = _option(180.0, "seconds until a failed push shows up in the failed list")
    clock_scale: float = _option(1.0, "divides the waits: 10 makes the first retry come after one second")
    delete_on_next_read: bool = _option(True, "a page of the failed list goes when the next is read, not at once")
    failed_shape: str = _option("callbackData", "shape of the failed list's entries", FAILED_SHAPES)
    allow_private: bool = _option(True, "take private addresses as callbacks, which DingTalk refuses (71013)")
    old_workflow_permission: bool = _option(True, "topapi/processinstance/get is permitted, as it is to older apps")
    token_lifetime: float = _option(7200.0, "seconds an access token lives")
    monthly_calls: int = _option(0, "API calls the organisation has a month; 0: as many as it likes")
    calls_per_second: int = _option(0, "calls an API takes in a second before it punishes; 0: as many as come")
    penalty_seconds: float = _option(2.0, "how long an API that was called too often refuses (90018), never scaled")
    slow_seconds: float = _option(3.0, "how long an API call with the fault `slow` takes")
    hold_seconds: float = _option(60.0, "how long an API call with the fault `timeout` is held without an answer")
