"""Whether an address can be listened on, said before a server fails at it with a backtrace."""

import errno
import socket


class PortUnusable(Exception):
    """Nothing can listen there; the text names the setting to change."""


def port_number(name: str, text: str) -> int:
    """Return a port as the setting `name` gives it; PortUnusable where it is none."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise PortUnusable(f"{name} is {text[:20]!r}: set it to a number from 1 to 65535")
    return int(text)


def require_free(name: str, host: str, port: int, command: str) -> None:
    """Raise PortUnusable where `host` is not this machine's or the port is taken; `command` shows how to change it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise PortUnusable(f"HOST {host} is no address of this machine: set it to 127.0.0.1 or 0.0.0.0") from None
        other = port + 10 if port < 65000 else port - 10
        problem = "needs more rights" if isinstance(error, PermissionError) else "is taken"
        raise PortUnusable(f"port {port} {problem}; name another: {command} {name}={other}") from None
