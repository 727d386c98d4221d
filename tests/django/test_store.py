"""``SessionStore`` without a request, as Django's own tests and commands use it."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import io

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.core.management import call_command
from django.http import HttpRequest

from sessionware import ConfigurationError, Session, SessionManager, manager_of, session_of
from sessionware.django import SessionStore
from sessionware.tokens import Tokens, new_id
from tests.apps import SECRET
from tests.byhand import Clock
from tests.django.conftest import Configure, Database
from tests.django.site import COOKIE, Browser, Request, storing


def stored(**content: object) -> SessionStore:
    store = SessionStore()
    store.update(content)
    store.save()
    return store


def content(store: SessionStore) -> dict[str, object]:
    """What is stored under its key."""
    return dict(SessionStore(store.session_key).items())


def test_a_session_is_not_loaded_before_it_is_used(database: Database) -> None:
    key = stored(a=1).session_key
    database.statements.clear()
    store = SessionStore(key)
    assert (store.session_key, store.accessed, store.modified) == (key, False, False)
    assert not hasattr(store, "_session_cache")
    assert not store.is_empty()
    assert database.statements == []
    assert store["a"] == 1


def test_a_new_key_is_a_signed_id(database: Database) -> None:
    key = stored(a=1).session_key
    assert Tokens(SECRET, [], COOKIE).verify(key.encode())


def test_a_key_that_the_store_does_not_know_is_not_adopted(database: Database) -> None:
    unknown = Tokens(SECRET, [], COOKIE).sign(new_id())
    store = SessionStore(unknown)
    store["a"] = 1
    store.save()
    assert store.session_key != unknown
    assert not SessionStore().exists(unknown)


def test_creating_what_exists_is_refused(database: Database) -> None:
    store = stored(a=1)
    with pytest.raises(CreateError):
        store.save(must_create=True)
    with pytest.raises(CreateError):
        SessionStore(store.session_key).save(must_create=True)
    assert database.count() == 1


def test_create_leaves_the_old_session_alone(database: Database) -> None:
    store = stored(a=1)
    known = store.session_key
    store.create()
    assert store.session_key != known
    assert dict(SessionStore(known).items()) == content(store) == {"a": 1}
    store["a"] = 2
    store.save()
    assert dict(SessionStore(known).items()) == {"a": 1}


def test_cycle_key_keeps_the_row_and_kills_the_old_key(database: Database) -> None:
    store = stored(a=1)
    known, handle = store.session_key, store.sessionware_session().handle
    store["b"] = 2
    store.cycle_key()
    assert not SessionStore().exists(known)
    assert store.exists(store.session_key)
    assert content(store) == {"a": 1, "b": 2}
    assert (database.count(), store.sessionware_session().handle) == (1, handle)


def test_cycle_key_of_a_session_that_ended_begins_a_new_one_with_what_was_written(
    database: Database,
) -> None:
    store = stored(a=1)
    store["b"] = 2
    SessionStore(store.session_key).flush()
    store.cycle_key()
    assert content(store) == {"b": 2}


def test_a_session_that_was_deleted_does_not_come_back(database: Database) -> None:
    store = stored(a=1)
    SessionStore(store.session_key).delete()
    store["a"] = 2
    with pytest.raises(UpdateError):
        store.save()
    with pytest.raises(UpdateError):
        store.save()
    assert database.count() == 0
    assert content(store) == {}


def test_clearing_before_loading_does_no_io_and_replaces_what_is_stored(
    database: Database,
) -> None:
    store = SessionStore(stored(a=1, b=2).session_key)
    database.statements.clear()
    store.clear()
    store["c"] = 3
    assert database.statements == []
    store.save()
    assert content(store) == {"c": 3}
    store.clear()
    store.save()
    assert content(store) == {}
    assert store.exists(store.session_key)


def test_what_fills_the_row_of_an_empty_session_is_never_seen(database: Database) -> None:
    store = stored()
    for again in (store, SessionStore(store.session_key)):
        assert list(again.keys()) == list(again.items()) == list(again.values()) == []
        assert len(again.sessionware_session()) == 0
    assert not again.modified
    again = SessionStore(store.session_key)
    again["a"] = 1
    again.save()
    assert list(SessionStore(store.session_key).items()) == [("a", 1)]


def test_two_requests_fill_an_empty_session_together(database: Database) -> None:
    key = stored().session_key
    first, second = SessionStore(key), SessionStore(key)
    first["a"] = 1
    second["b"] = 2
    first.save()
    second.save()
    assert second["a"] == 1, "a save shows what it was merged with"
    assert dict(SessionStore(key).items()) == {"a": 1, "b": 2}


def test_a_key_that_an_older_secret_signed_is_signed_anew(
    configure: Configure, database: Database
) -> None:
    known = stored(a=1).session_key
    configure(SECRET_KEY="another secret, long enough as well: 9876543210")
    assert not SessionStore().exists(known)
    configure(SECRET_KEY_FALLBACKS=[SECRET])
    store = SessionStore(known)
    assert store["a"] == 1
    assert store.session_key != known
    configure(SECRET_KEY_FALLBACKS=[])
    assert content(store) == {"a": 1}


def test_clearsessions_deletes_what_has_expired(
    clock: Clock, database: Database, manager: SessionManager
) -> None:
    stored(a=1, _session_expiry=60)
    stored(b=1)
    clock.tick(61)
    assert database.count() == 2
    call_command("clearsessions", stdout=io.StringIO())
    assert database.count() == 1


@pytest.mark.anyio
async def test_every_method_has_a_twin_for_coroutines(clock: Clock, database: Database) -> None:
    store = SessionStore()
    await store.aset("a", 1)
    await store.asave()
    key = store.session_key
    assert await SessionStore(key).aget("a") == 1
    assert await SessionStore().aexists(key)
    with pytest.raises(CreateError):
        await store.asave(must_create=True)

    await store.acycle_key()
    assert not await SessionStore().aexists(key)
    assert dict(await SessionStore(store.session_key).aitems()) == {"a": 1}

    known = store.session_key
    await store.aflush()
    assert store.session_key is None
    assert not await SessionStore().aexists(known)

    await store.acreate()
    await store.aset_expiry(60)
    await store.asave()
    clock.tick(61)
    await SessionStore.aclear_expired()
    assert await sync_to_async(database.count)() == 0

    other = SessionStore()
    await other.aset("a", 1)
    await other.asave()
    await SessionStore().adelete(other.session_key)
    await other.aset("a", 2)
    with pytest.raises(UpdateError):
        await other.asave()
    assert dict(await other.aload()) == {}


@pytest.mark.anyio
async def test_what_would_block_the_event_loop_is_refused(database: Database) -> None:
    store = SessionStore()
    await store.aset("a", 1)
    await store.asave()
    for call in (
        lambda: SessionStore(store.session_key).get("a"),
        lambda: store.save(),
        lambda: store.exists(store.session_key),
        lambda: store.delete(),
        lambda: store.flush(),
        lambda: store.cycle_key(),
        lambda: SessionStore.clear_expired(),
    ):
        store["a"] += 1
        with pytest.raises(RuntimeError, match="block the event loop"):
            call()
    assert store["a"] == 8, "what is loaded can be read and written"


def test_session_of_and_manager_of_know_a_request_of_djangos(
    browser: Browser, manager: SessionManager
) -> None:
    browser.visit(storing(count=1))

    def look(request: Request) -> bool:
        session = session_of(request)
        assert isinstance(session, Session)
        assert session.incr("count") == 2
        assert manager_of(request) is manager_of(session) is manager
        return bool(request.session.accessed and request.session["count"] == 2)

    assert browser.visit(look).result is True
    assert browser.content() == {"count": 2}


def test_a_new_session_can_be_asked_for_too(browser: Browser) -> None:
    def look(request: Request) -> bool:
        request.session["a"] = 1
        return session_of(request).is_new

    assert browser.visit(look).result is True
    assert browser.content() == {"a": 1}


def test_a_request_without_our_engine_has_neither() -> None:
    request: Request = HttpRequest()
    request.session = {}
    for find in (session_of, manager_of):
        with pytest.raises(LookupError):
            find(request)


def test_a_wrong_setting_is_an_error_and_no_empty_session(configure: Configure) -> None:
    configure(SESSIONWARE={"idle_timout": 1800})
    with pytest.raises(ConfigurationError, match="idle_timeout"):
        SessionStore().save()
