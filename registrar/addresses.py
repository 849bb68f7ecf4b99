"""What can be said of a callback address without asking anybody. Pure: no Django, no I/O."""

from ipaddress import ip_address
from urllib.parse import urlsplit

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def malformed(url: str) -> str:
    """Return what keeps `url` from being an http(s) address, '' if nothing does; the text repeats no user or query."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "holds blanks or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https"):
        return "does not begin with https:// or http://"
    if not parts.hostname or port == 0:
        return "has no host or no valid port"
    if parts.fragment or "@" in parts.netloc:
        return "holds a user name or a fragment (#…)"
    return ""


def is_private(url: str) -> bool:
    """Tell whether DingTalk can't reach the address: a name of this machine or network, or an IP that is not global."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_SUFFIXES)


def is_dingtalk(url: str) -> bool:
    """Tell whether an API address is DingTalk's own, as against a simulator's."""
    host = urlsplit(url).hostname or ""
    return host == "dingtalk.com" or host.endswith(".dingtalk.com")
