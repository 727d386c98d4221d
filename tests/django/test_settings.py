"""From Django's settings to the manager's, and the database that follows from DATABASES."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from sqlalchemy import URL, create_engine, make_url

from sessionware import ConfigurationError, MemoryStore
from sessionware.django import SessionStore, manager
from sessionware.django_settings import build_manager, derived_store
from tests import services
from tests.apps import SECRET
from tests.django.conftest import Configure, Database
from tests.django.site import User


def test_the_settings_are_djangos(configure: Configure, database: Database) -> None:
    configure(
        SECRET_KEY_FALLBACKS=["an older secret, long enough: 0123456789"],
        SESSION_COOKIE_NAME="__Host-id",
        SESSION_COOKIE_AGE=3600,
        SESSION_COOKIE_SECURE=True,
        SESSION_SAVE_EVERY_REQUEST=True,
    )
    settings = manager().settings
    assert settings.secret_key == SECRET
    assert settings.secret_key_fallbacks == ("an older secret, long enough: 0123456789",)
    assert settings.session_cookie == "__Host-id"
    assert (settings.max_age, settings.https_only, settings.rolling) == (3600, True, True)
    assert settings.user_key == ("_auth_user_id",)


def test_sessionware_wins(configure: Configure, database: Database) -> None:
    own = {"max_age": 60, "rolling": True, "user_key": "who", "secret_key": "s" * 8 + SECRET}
    configure(SESSIONWARE={"store": database.engine, **own})
    settings = manager().settings
    assert (settings.max_age, settings.rolling, settings.user_key) == (60, True, ("who",))
    assert settings.secret_key == "s" * 8 + SECRET
    assert SessionStore().get_expiry_age() == 60, "the cookie lives as long as the row"


def test_changed_settings_make_another_manager(configure: Configure, database: Database) -> None:
    before = manager()
    assert manager() is before
    configure(LANGUAGE_CODE="de")
    assert manager() is before
    configure(SESSION_COOKIE_AGE=3600)
    assert manager() is not before
    assert manager().settings.max_age == 3600


def test_threads_share_one_manager(database: Database) -> None:
    together, found = threading.Barrier(8), []

    def ask() -> None:
        together.wait(5)
        found.append(manager())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_serializer_of_the_applications_is_used(configure: Configure, database: Database) -> None:
    configure(SESSION_SERIALIZER=f"{__name__}.Loud")
    store = SessionStore()
    store["a"] = "quiet"
    store.save()
    assert SessionStore(store.session_key)["a"] == "QUIET"


class Loud:
    def dumps(self, content: dict[str, Any]) -> bytes:
        return json.dumps(content).replace("quiet", "QUIET").encode()

    def loads(self, raw: bytes) -> Any:
        return json.loads(raw)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"idle_timout": 1}, "did you mean idle_timeout"),
    "an async driver": ({"store": "sqlite+aiosqlite:///s.db"}, "use its sync twin, sqlite://"),
    "a cookie's attribute": ({"same_site": "strict"}, "SESSION_COOKIE_SAMESITE"),
    "the cookie's name": ({"session_cookie": "id"}, "SESSION_COOKIE_NAME"),
    "excluded paths": ({"exclude": ["/static"]}, "costs no query"),
    "a setting of its own": ({"cache_ttl": -1}, r'SESSIONWARE\["cache_ttl"\]'),
    "strict, without https": ({"strict": True}, r"SESSION_COOKIE_SECURE \(https_only\)"),
    "what to do about it": ({"strict": True}, "set SESSION_COOKIE_SECURE=True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_with_the_fix_in_djangos_words(
    configure: Configure, case: str
) -> None:
    own, message = WRONG[case]
    configure(SESSIONWARE={"store": MemoryStore(), **own})
    with pytest.raises(ConfigurationError, match=message):
        manager()
    with pytest.raises(ConfigurationError, match=message):
        SessionStore("a key that is long enough").load()
    with pytest.raises(SystemCheckError, match=r"sessionware\.SW0"):
        call_command("check")


UNKEPT: dict[str, dict[str, Any]] = {
    "SESSION_COOKIE_SAMESITE .* set SESSION_COOKIE_SECURE=True": {"SAMESITE": "None"},
    r"SESSION_COOKIE_DOMAIN \(domain\): it is a public suffix": {"DOMAIN": "co.uk"},
    r"SESSION_COOKIE_PATH \(path\): it must begin": {"PATH": "/a;b"},
    "SESSION_COOKIE_NAME .* set SESSION_COOKIE_DOMAIN=None": {
        "NAME": "__Host-id", "SECURE": True, "DOMAIN": "example.com",
    },
    "SESSION_COOKIE_NAME .* set SESSION_COOKIE_PATH=": {
        "NAME": "__Host-id", "SECURE": True, "PATH": "/shop",
    },
    "SESSION_COOKIE_HTTPONLY: browsers drop": {
        "NAME": "__Http-id", "SECURE": True, "HTTPONLY": False,
    },
    "SESSION_COOKIE_HTTPONLY: 'False' is not a bool": {"HTTPONLY": "False"},
}  # fmt: skip


@pytest.mark.parametrize("message", UNKEPT)
def test_a_cookie_that_no_browser_would_keep_as_it_is_meant_is_refused(
    configure: Configure, message: str
) -> None:
    configure(**{f"SESSION_COOKIE_{name}": value for name, value in UNKEPT[message].items()})
    with pytest.raises(ConfigurationError, match=message):
        manager()


def test_all_that_is_wrong_with_the_settings_comes_at_once(configure: Configure) -> None:
    configure(SESSION_COOKIE_HTTPONLY=False, SESSION_COOKIE_AGE=-(2**63))
    configure(SESSIONWARE={"store": MemoryStore(), "strict": True})
    with pytest.raises(ConfigurationError) as caught:
        manager()
    assert [each.code for each in caught.value.findings] == ["SW012", "SW015", "SW007"]


@pytest.mark.parametrize("samesite", [False, None, "Strict"])
def test_what_leaves_a_cookies_attribute_out_is_no_mistake(
    configure: Configure, samesite: object
) -> None:
    configure(SESSION_COOKIE_SAMESITE=samesite, SESSION_COOKIE_DOMAIN="")
    assert manager().settings.domain is None


@pytest.mark.parametrize("path", ["", None])
def test_a_cookie_without_a_path_is_no_mistake(configure: Configure, path: str | None) -> None:
    """As where it is that of a FORCE_SCRIPT_NAME, which is None where there is none."""
    configure(SESSION_COOKIE_PATH=path)
    assert manager().settings.path == "/"


@pytest.mark.parametrize(
    "name",
    [
        "nosuch.Thing",
        # Django had it before 5.0.
        "django.contrib.sessions.serializers.PickleSerializer",
        "json.dumps",
        "",
        None,
    ],
)
def test_a_serializer_that_can_not_be_had_is_a_wrong_setting(
    configure: Configure, name: str | None
) -> None:
    configure(SESSION_SERIALIZER=name)
    with pytest.raises(ConfigurationError, match="SW037 SESSION_SERIALIZER"):
        manager()
    with pytest.raises(SystemCheckError, match=r"sessionware\.SW037"):
        call_command("check")


def test_sessionware_has_to_be_a_dict(configure: Configure) -> None:
    configure(SESSIONWARE="sqlite://")
    with pytest.raises(ConfigurationError, match="must be a dict"):
        manager()


def test_the_check_finds_nothing_wrong_with_the_defaults(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("check")
    assert "no issues" in capsys.readouterr().out


# The database.


def test_without_a_store_sessions_go_into_a_file_beside_the_applications(
    configure: Configure,
) -> None:
    application = Path(connections["default"].settings_dict["NAME"])
    configure(SESSIONWARE={"purge_interval": None})
    user = User.objects.create_user(f"beside-{application.stat().st_ino}-{id(configure)}")
    store = SessionStore()
    store["_auth_user_id"] = str(user.pk)
    store.save()
    assert len(manager().list_sessions(user.pk)) == 1
    assert application.with_name("app.sessions.db").exists()
    with connections["default"].cursor() as cursor:
        tables = connections["default"].introspection.table_names(cursor)
    assert "sessions" not in tables


def test_under_a_test_runner_sessions_stay_in_memory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "outbox", [], raising=False)
    configure(SESSIONWARE={})
    store = SessionStore()
    store["a"] = 1
    store.save()
    configure(SESSION_COOKIE_AGE=60)
    assert SessionStore(store.session_key)["a"] == 1, "one store, whatever settings are overridden"
    configure(SESSIONWARE={"store": "sqlite:///named.db"})
    assert manager().settings.store == "sqlite:///named.db"


SQLITE = {
    "db.sqlite3": "db.sessions.sqlite3",
    "/srv/site/db.sqlite3": "/srv/site/db.sessions.sqlite3",
    Path("/srv/site/db"): "/srv/site/db.sessions",
    "file:/srv/my%20site/db.sqlite3?mode=rw": "/srv/my site/db.sessions.sqlite3",
}


@pytest.mark.parametrize("name", SQLITE, ids=str)
def test_sqlite_gets_a_file_of_its_own(name: str | Path) -> None:
    url = derived_store("sqlite", {"NAME": name})
    assert isinstance(url, URL)
    assert (url.drivername, url.database) == ("sqlite", SQLITE[name])


@pytest.mark.parametrize(
    "name", [":memory:", "file:memorydb_default?mode=memory&cache=shared", "", None]
)
def test_sqlite_in_memory_is_a_store_in_memory(name: str | None) -> None:
    store = derived_store("sqlite", {"NAME": name})
    assert isinstance(store, MemoryStore)
    assert derived_store("sqlite", {"NAME": name}) is store


POSTGRES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a host and a port": (
        {"HOST": "db", "PORT": "5433", "USER": "u", "PASSWORD": "p@:/"},
        {"host": "db", "port": "5433", "user": "u", "password": "p@:/"},
    ),
    "the local socket": ({"HOST": "", "PORT": ""}, {}),
    "a folder of sockets": ({"HOST": "/run/postgresql"}, {"host": "/run/postgresql"}),
    "several hosts": ({"HOST": "a,b", "PORT": "1,2"}, {"host": "a,b", "port": "1,2"}),
    "an IPv6 address": ({"HOST": "::1", "PORT": 5432}, {"host": "::1", "port": "5432"}),
    "options of the connection": (
        {"OPTIONS": {"sslmode": "verify-full", "connect_timeout": 3, "pool": True}},
        {"sslmode": "verify-full", "connect_timeout": "3"},
    ),
    "Django's own options": (
        {"OPTIONS": {"isolation_level": 3, "server_side_binding": True, "prepare_threshold": 1}},
        {},
    ),
    "a role": ({"OPTIONS": {"assume_role": "web app"}}, {"options": "-c role=web\\ app"}),
    "the default database": ({"NAME": None}, {"dbname": "postgres"}),
    "a service": ({"NAME": "", "OPTIONS": {"service": "s"}}, {"service": "s", "dbname": None}),
}


@pytest.mark.parametrize("case", POSTGRES)
def test_postgresql_is_reached_as_django_reaches_it(case: str) -> None:
    given, wanted = POSTGRES[case]
    url = derived_store("postgresql", {"NAME": "site", **given})
    assert isinstance(url, URL)
    assert url.drivername == "postgresql+psycopg"
    _, arguments = url.get_dialect()().create_connect_args(url)
    sent = {name: str(value) for name, value in arguments.items() if name != "context"}
    expected = {"dbname": "site", **wanted}
    assert sent == {name: value for name, value in expected.items() if value is not None}


MYSQL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a host and a port": (
        {"HOST": "db", "PORT": "3307", "USER": "u", "PASSWORD": "p@:/"},
        {"host": "db", "port": 3307, "user": "u", "password": "p@:/"},
    ),
    "a socket": ({"HOST": "/run/mysqld.sock"}, {"unix_socket": "/run/mysqld.sock"}),
    "options": (
        {"OPTIONS": {"charset": "utf8mb4", "ssl": {"ca": "/ca.pem"}, "init_command": "SET x"}},
        {"ssl": {"ca": "/ca.pem"}},
    ),
}


@pytest.mark.parametrize("case", MYSQL)
def test_mysql_is_reached_as_django_reaches_it(case: str) -> None:
    given, wanted = MYSQL[case]
    url = derived_store("mysql", {"NAME": "site", **given})
    assert isinstance(url, URL)
    assert url.drivername == "mysql+pymysql"
    _, arguments = url.get_dialect()().create_connect_args(url)
    arguments.pop("client_flag", None)
    assert arguments == {"database": "site", "charset": "utf8mb4", **wanted}


def _django(url: str) -> dict[str, Any]:
    """A server of the tests, as DATABASES would name it."""
    parts = make_url(url)
    return {
        "NAME": parts.database,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.host or "",
        "PORT": str(parts.port or ""),
    }


@pytest.mark.parametrize(
    ("vendor", "fixture"),
    [
        pytest.param("postgresql", "postgres_url", marks=pytest.mark.postgres),
        pytest.param("mysql", "mysql_url", marks=pytest.mark.mysql),
    ],
)
def test_the_derived_url_reaches_the_server(
    vendor: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    url = derived_store(vendor, _django(request.getfixturevalue(fixture)))
    assert isinstance(url, URL)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    engine.dispose()


@pytest.mark.postgres
def test_a_project_on_postgresql_needs_no_store_named(
    configure: Configure, table_name: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.POSTGRES.url == postgres_url
    monkeypatch.setattr(connections["default"], "vendor", "postgresql")
    monkeypatch.setattr(connections["default"], "settings_dict", _django(postgres_url))
    configure(SESSIONWARE={"table_name": table_name, "purge_interval": None})
    store = SessionStore()
    store["a"] = 1
    store.save()
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT count(*) FROM {table_name}").scalar_one()
    engine.dispose()
    assert rows == 1


@pytest.mark.parametrize("vendor", ["oracle", "unknown"])
def test_another_kind_of_database_has_to_be_named(vendor: str) -> None:
    with pytest.raises(ConfigurationError, match=r'SESSIONWARE\["store"\].*name a database'):
        derived_store(vendor, {"NAME": "x"})


def test_building_a_manager_opens_nothing(configure: Configure, tmp_path: Path) -> None:
    configure(SESSIONWARE={"store": f"sqlite:///{tmp_path / 'sessions.db'}"})
    threads = set(threading.enumerate())
    build_manager()
    assert set(threading.enumerate()) <= threads
    assert not (tmp_path / "sessions.db").exists()
