"""Answer machines (DingTalk, load balancers) before anything made for browsers has a say."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve


class AnswerMachinesFirst:
    """Serve the addresses of `callbacks.urls` ahead of sessions, login, locale, CSRF, host checks and redirects.

    DingTalk refuses redirects and wants its answer within 1.5 s; a load balancer asks for `/healthz` with its own idea
    of the host name.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Call the machine's view, or go on to the rest of the middleware."""
        try:
            match = resolve(request.path_info, "callbacks.urls")
        except Resolver404:
            return self.get_response(request)
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        # Without a length, the answer would go out in chunks.
        response.headers["Content-Length"] = str(len(response.content))
        return response


def forget_charset(application: Callable[[dict[str, Any], Any], Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application that is told no charset: bodies are UTF-8 here.

    Django decodes the query with it while making the request, before any middleware can answer for what that raises.
    """

    def without_charset(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        content_type = environ.get("CONTENT_TYPE") or ""
        environ["CONTENT_TYPE"] = re.sub(r"(?i);\s*charset[^;]*", "", content_type)
        return application(environ, start_response)

    return without_charset
