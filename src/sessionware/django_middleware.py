"""What an engine can't do for Django: answer where the store is down, and see the client."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse, parse_cookie

from .adapting import UNAVAILABLE, client_of, is_from
from .django_settings import engine, manager
from .errors import StoreUnavailable
from .headers import ensure_no_store_wsgi

CLIENT: Final[ContextVar[tuple[str | None, str | None]]] = ContextVar(
    "sessionware_client", default=(None, None)
)
"""Address and user agent of the request that is being served."""


class SessionwareMiddleware:
    """What an engine can't do; optional, directly above Django's ``SessionMiddleware``.

    A request whose session can't be read or saved is answered with 503 and ``Retry-After`` in place
    of 500. A response that sets the session's cookie forbids caches to store it. The cookie is read
    as strictly as elsewhere: of several of its name the valid one counts, and none if two are. With
    ``record_client``, the client's address and user agent are recorded at a login.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self._acall(request)
        with _known(request):
            return _finished(request, self.get_response(request))

    async def _acall(self, request: HttpRequest) -> HttpResponse:
        with _known(request):
            return _finished(request, await self.get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """A view did not handle it."""
        return _unavailable() if is_from(exception, StoreUnavailable) else None


@contextmanager
def _known(request: HttpRequest) -> Iterator[None]:
    """What the session's engine is to know of the request, in which it can't look."""
    meta = request.META
    _choose_cookie(request, meta.get("HTTP_COOKIE", ""))
    token = CLIENT.set(client_of(meta.get("REMOTE_ADDR"), meta.get("HTTP_USER_AGENT")))
    try:
        yield
    finally:
        CLIENT.reset(token)


def _choose_cookie(request: HttpRequest, header: str) -> None:
    """Read the cookie as in every other framework. Django unquotes, trims more than browsers do,
    which forges a ``__Host-`` name, joins fields by a comma under ASGI, and takes the last of
    several, which whoever owns a sibling domain can toss in.
    """
    name = settings.SESSION_COOKIE_NAME
    if name not in header:
        return
    made = engine()
    values = made.manager.cookies.values(_fields(request, header))
    if values is not None and len(values) == 1:
        # What it is worth is for the engine to say.
        chosen: str | None = values[0].decode("latin-1")
    else:
        known = made.manager.identify(values).id
        chosen = None if known is None else made.tokens.sign(known)
    cookies = request.COOKIES
    there = cookies.get(name)
    if there == chosen or there != _read_by_django(request, header).get(name):
        # A middleware of the application's may have taken it out, or put another one in its place.
        return
    if chosen is None:
        del cookies[name]
    else:
        cookies[name] = chosen


def _read_by_django(request: HttpRequest, header: str) -> dict[str, str]:
    if not hasattr(request, "scope"):
        header = header.encode("latin-1", "replace").decode(errors="replace")
    found: dict[str, str] = parse_cookie(header)
    return found


def _fields(request: HttpRequest, header: str) -> list[bytes]:
    scope = getattr(request, "scope", None)
    if scope is None:
        return [header.encode("latin-1", "replace")]
    return [value for key, value in scope["headers"] if key.lower() == b"cookie"]


def _finished(request: HttpRequest, response: Any) -> Any:
    session = getattr(request, "session", None)
    if response.status_code == 500 and getattr(session, "unavailable", False):
        # Django has made its catch-all of it, at the save for example.
        return _unavailable()
    if settings.SESSION_COOKIE_NAME in response.cookies:
        name = "Cache-Control"
        given = [(name, response[name])] if response.has_header(name) else []
        for header, value in ensure_no_store_wsgi(given):
            response[header] = value
    return response


def _unavailable() -> HttpResponse:
    headers = {"Retry-After": str(manager().retry_after), "Cache-Control": "no-store"}
    return HttpResponse(UNAVAILABLE, status=503, content_type="text/plain", headers=headers)
