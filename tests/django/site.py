"""A Django project for the tests, and a browser in front of it.

Django can be configured once a process, so this module does it for every test that needs Django.
What a test wants otherwise it says by ``override_settings``.
"""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeAlias

import django
from django.conf import settings

from tests.apps import SECRET

COOKIE: Final = "sessionid"
ENGINE: Final = "sessionware.django"
_FOLDER: Final = Path(tempfile.mkdtemp(prefix="sessionware-django-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

settings.configure(
    SECRET_KEY=SECRET,
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF="tests.django.site",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _FOLDER / "app.db"}},
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        ENGINE,
    ],
    MIDDLEWARE=[
        "sessionware.django.SessionwareMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    SESSION_ENGINE=ENGINE,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    LOGGING_CONFIG=None,
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import views as auth_views  # noqa: E402
from django.contrib.auth.models import User as User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402
from django.urls import path  # noqa: E402

call_command("migrate", verbosity=0)

PASSWORD: Final = "a passphrase, as good as any"
Request: TypeAlias = Any
"""An ``HttpRequest``, with what the middlewares have added."""

_act: ContextVar[Callable[[Request], Any]] = ContextVar("act")


def _answer(result: object) -> HttpResponse:
    return result if isinstance(result, HttpResponse) else JsonResponse({"result": result})


def act(request: Request) -> HttpResponse:
    """Does what the test says."""
    return _answer(_act.get()(request))


async def aact(request: Request) -> HttpResponse:
    """Does what the test says, which is a coroutine function."""
    return _answer(await _act.get()(request))


urlpatterns = [
    path("act", act),
    path("aact", aact),
    path("login", auth_views.LoginView.as_view(next_page="/act"), name="login"),
    path("logout", auth_views.LogoutView.as_view(next_page="/act"), name="logout"),
    path("password", auth_views.PasswordChangeView.as_view(success_url="/act"), name="password"),
]


class Answer:
    """A response, and what it says of the session's cookie."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.headers: Any = response.headers
        self._body: bytes = response.content
        self.cookie: Any = response.cookies.get(COOKIE)

    @property
    def result(self) -> Any:
        """What the test's own view returned."""
        assert self.status == 200, self.status
        return json.loads(self._body)["result"]

    @property
    def deletes_cookie(self) -> bool:
        return self.cookie is not None and self.cookie["max-age"] == 0


class Browser:
    """Keeps the session's cookie. ``key`` is its value, None without one."""

    def __init__(self, key: str | None = None) -> None:
        # An exception of a view is a 500, as it is in production.
        self.client = Client(raise_request_exception=False)
        self.aclient = AsyncClient(raise_request_exception=False)
        self.key = key

    @property
    def key(self) -> str | None:
        morsel = self.client.cookies.get(COOKIE)
        return morsel.value or None if morsel is not None else None

    @key.setter
    def key(self, value: str | None) -> None:
        self.client.cookies.pop(COOKIE, None)
        if value is not None:
            self.client.cookies[COOKIE] = value
        self.aclient.cookies = self.client.cookies

    def twin(self) -> Browser:
        """Another tab of the same browser, whose next request is sent with today's cookie."""
        return Browser(self.key)

    def visit(self, what: Callable[[Request], Any], **options: Any) -> Answer:
        token = _act.set(what)
        try:
            return Answer(self.client.get("/act", **options))
        finally:
            _act.reset(token)

    async def avisit(self, what: Callable[[Request], Any], **options: Any) -> Answer:
        token = _act.set(what)
        try:
            return Answer(await self.aclient.get("/aact", **options))
        finally:
            _act.reset(token)

    def post(self, where: str, **data: str) -> Answer:
        return Answer(self.client.post(where, data))

    def login(self, user: User, password: str = PASSWORD) -> Answer:
        answer = self.post("/login", username=str(user.username), password=password)
        assert answer.status == 302
        return answer

    def content(self) -> dict[str, Any]:
        """What the session holds."""
        found: dict[str, Any] = self.visit(lambda request: dict(request.session.items())).result
        return found


def storing(**content: Any) -> Callable[[Request], None]:
    """For ``visit``: stores these keys."""

    def what(request: Request) -> None:
        request.session.update(content)

    return what


def username(request: Request) -> str:
    """For ``visit``: who is logged in; empty for nobody."""
    name: str = request.user.username
    return name


def untouched(request: Request) -> str:
    """For ``visit``: does not look at the session."""
    return "ok"
