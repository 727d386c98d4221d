"""Each program under examples/ does what its page or header says, driven as a browser would."""

from __future__ import annotations

import importlib.util
import re
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SECRET = "an example's secret, long enough: 0123456789abcdefghij"

LoadExample = Callable[[str], ModuleType]


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> LoadExample:
    """Import a program by its path, anew at each call, as another worker process would."""

    def load(path: str) -> ModuleType:
        name = f"example_{uuid.uuid4().hex}"
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # FastAPI looks annotations up there
        spec.loader.exec_module(module)
        return module

    return load


def cookie_of(client: TestClient) -> str:
    return str(client.cookies["session"])


def with_cookie(module: ModuleType, value: str) -> TestClient:
    return TestClient(module.app, cookies={"session": value})


class TestDemo:
    @pytest.fixture(autouse=True)
    def in_tmp_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("jinja2")
        monkeypatch.setenv("SESSIONWARE_DEMO_DIR", str(tmp_path))
        monkeypatch.delenv("SESSIONWARE_DEMO_SECRET", raising=False)

    @pytest.fixture
    def demo(self, load_example: LoadExample) -> ModuleType:
        return load_example("demo/app.py")

    @pytest.fixture
    def browser(self, demo: ModuleType) -> TestClient:
        return TestClient(demo.app)

    def test_visits_are_counted(self, browser: TestClient) -> None:
        assert [visits(browser.get("/").text) for _ in range(3)] == [1, 2, 3]

    def test_two_workers_share_sessions_and_secret(
        self, browser: TestClient, load_example: LoadExample
    ) -> None:
        browser.get("/")
        other_worker = with_cookie(load_example("demo/app.py"), cookie_of(browser))
        assert visits(other_worker.get("/").text) == 2
        assert visits(browser.get("/").text) == 3

    def test_a_change_deep_inside_the_cart_is_saved(self, browser: TestClient) -> None:
        submit(browser, "/cart/add", item="Tea")
        submit(browser, "/cart/add", item="Milk")
        submit(browser, "/cart/add", item="Tea")
        assert cart(browser.get("/").text) == [("Tea", 2), ("Milk", 1)]

    def test_an_item_can_be_taken_out_of_the_cart(self, browser: TestClient) -> None:
        submit(browser, "/cart/add", item="Tea")
        submit(browser, "/cart/add", item="Milk")
        assert cart(submit(browser, "/cart/remove", item="Tea")) == [("Milk", 1)]

    def test_login_keeps_the_cart_and_makes_the_old_cookie_worthless(
        self, demo: ModuleType, browser: TestClient
    ) -> None:
        submit(browser, "/cart/add", item="Tea")
        before = cookie_of(browser)
        page = submit(browser, "/login", name="alice")
        assert "Signed in as alice" in page
        assert cart(page) == [("Tea", 1)]
        assert cookie_of(browser) != before
        stolen = with_cookie(demo, before).get("/").text
        assert "Signed in as" not in stolen
        assert cart(stolen) == []

    def test_logout_ends_the_session_on_the_server(
        self, demo: ModuleType, browser: TestClient
    ) -> None:
        submit(browser, "/login", name="alice")
        before = cookie_of(browser)
        assert "Signed in as" not in submit(browser, "/logout")
        replayed = with_cookie(demo, before).get("/").text
        assert "Signed in as" not in replayed
        assert visits(replayed) == 1

    def test_a_message_is_shown_once(self, browser: TestClient) -> None:
        assert "Welcome, alice" in submit(browser, "/login", name="alice")
        assert "Welcome, alice" not in browser.get("/").text

    @pytest.mark.parametrize("visited", [True, False])
    @pytest.mark.parametrize(
        "token", [{}, {"csrf": ""}, {"csrf": "wrong"}, {"csrf": "\N{SNOWMAN}"}], ids=str
    )
    def test_every_form_is_refused_without_its_token(
        self, demo: ModuleType, browser: TestClient, visited: bool, token: dict[str, str]
    ) -> None:
        if visited:
            browser.get("/")
        paths = [route.path for route in demo.app.routes if "POST" in getattr(route, "methods", ())]
        assert len(paths) == 6
        fields = {"name": "eve", "item": "Spam", "handle": "0" * 12, **token}
        assert [browser.post(path, data=fields).status_code for path in paths] == [403] * 6
        page = browser.get("/").text
        assert cart(page) == []
        assert "Signed in as" not in page

    def test_a_form_token_known_before_the_login_is_worthless_after(
        self, browser: TestClient
    ) -> None:
        before = form_token(browser.get("/").text)
        submit(browser, "/login", name="alice")
        response = browser.post("/cart/add", data={"csrf": before, "item": "Tea"})
        assert response.status_code == 403

    def test_device_forms_are_refused_to_who_is_not_signed_in(self, browser: TestClient) -> None:
        token = form_token(browser.get("/").text)
        for path in ("/sessions/revoke", "/sessions/revoke-others"):
            assert browser.post(path, data={"csrf": token}).status_code == 403

    def test_a_form_over_its_limit_is_refused(self, demo: ModuleType, browser: TestClient) -> None:
        response = browser.post("/cart/add", data={"item": "x" * demo.MAX_FORM_BYTES})
        assert response.status_code == 413

    @pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\" onfocus='alert(1)'>"])
    def test_what_visitors_type_is_escaped(self, browser: TestClient, text: str) -> None:
        submit(browser, "/cart/add", item=text)
        page = submit(browser, "/login", name=text)
        assert text not in page
        # Jinja spells the escaped quotes as &#34; and &#39;.
        escaped = escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
        assert page.count(escaped) >= 5  # message, heading, item, its field and its button

    def test_a_user_signs_out_another_device(self, demo: ModuleType, browser: TestClient) -> None:
        phone = TestClient(demo.app)
        submit(browser, "/login", name="alice")
        submit(phone, "/login", name="alice")
        (handle,) = other_devices(browser.get("/").text)
        page = submit(browser, "/sessions/revoke", handle=handle)
        assert other_devices(page) == []
        assert "Signed in as alice" in page
        assert "Signed in as" not in phone.get("/").text

    def test_a_user_signs_out_everywhere_else(self, demo: ModuleType, browser: TestClient) -> None:
        phone, tablet = TestClient(demo.app), TestClient(demo.app)
        for device in (browser, phone, tablet):
            submit(device, "/login", name="alice")
        assert "Signed in as alice" in submit(browser, "/sessions/revoke-others")
        assert ["Signed in as" in each.get("/").text for each in (phone, tablet)] == [False, False]

    def test_nobody_signs_out_the_device_of_another_user(
        self, demo: ModuleType, browser: TestClient
    ) -> None:
        mallory = TestClient(demo.app)
        handle = own_handle(submit(browser, "/login", name="alice"))
        submit(mallory, "/login", name="mallory")
        submit(mallory, "/sessions/revoke", handle=handle)
        assert "Signed in as alice" in browser.get("/").text

    def test_the_style_sheet_has_no_session(self, browser: TestClient) -> None:
        browser.get("/")
        response = browser.get("/static/style.css")
        assert response.status_code == 200
        assert "vary" not in response.headers

    def test_workers_that_start_at_once_agree_on_one_private_secret(
        self, demo: ModuleType, tmp_path: Path
    ) -> None:
        path = tmp_path / "new" / ".demo-secret"
        path.parent.mkdir()
        start = threading.Barrier(8)
        secrets: list[str] = []

        def worker() -> None:
            start.wait()
            secrets.append(demo.shared_secret(path))

        threads = [threading.Thread(target=worker) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(secrets) == 8
        assert len(set(secrets)) == 1
        assert len(secrets[0]) >= 43
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]


class TestFastAPI:
    @pytest.fixture
    def client(
        self, load_example: LoadExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> TestClient:
        pytest.importorskip("fastapi")
        pytest.importorskip("uvicorn")
        monkeypatch.setenv("SECRET_KEY", SECRET)
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'fastapi.db'}")
        return TestClient(load_example("fastapi_app.py").app)

    def test_a_stranger_is_told_to_log_in(self, client: TestClient) -> None:
        assert client.get("/me").status_code == 401
        assert client.post("/checkout").status_code == 401

    def test_login_changes_the_cookie_and_logout_ends_the_session(self, client: TestClient) -> None:
        client.post("/cart", json={"item": "Tea"})
        before = cookie_of(client)
        assert client.post("/login", json={"name": "alice"}).json() == {"hello": "alice"}
        after = cookie_of(client)
        assert after != before
        assert [client.get("/me").json()["visits"] for _ in range(2)] == [1, 2]
        assert client.post("/logout").status_code == 204
        client.cookies = {"session": after}
        assert client.get("/me").status_code == 401

    def test_the_cart_is_kept_and_ordered(self, client: TestClient) -> None:
        client.post("/cart", json={"item": "Tea", "quantity": 2})
        client.post("/cart", json={"item": "Milk"})
        client.post("/cart", json={"item": "Spam"})
        client.delete("/cart/Spam")
        expected = [{"item": "Tea", "quantity": 2}, {"item": "Milk", "quantity": 1}]
        assert client.get("/cart").json() == expected
        client.post("/login", json={"name": "alice"})
        assert client.post("/checkout").json() == {"ordered": 3}
        assert client.get("/cart").json() == []


class TestPostgres:
    @pytest.fixture
    def module(
        self,
        load_example: LoadExample,
        postgres_url: str,
        table_name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> ModuleType:
        pytest.importorskip("uvicorn")
        monkeypatch.setenv("SECRET_KEY", SECRET)
        monkeypatch.setenv("DATABASE_URL", postgres_url)
        module = load_example("postgres_app.py")
        # Starlette builds the middleware at the first request: until then a setting can be added.
        module.app.user_middleware[0].kwargs["table_name"] = table_name
        return module

    @pytest.fixture
    def devices(self, module: ModuleType) -> Iterator[tuple[TestClient, TestClient]]:
        """A laptop and a phone on which the same user, a new one for each test, has logged in."""
        laptop, phone = TestClient(module.app), TestClient(module.app)
        user = uuid.uuid4().hex
        for device in (laptop, phone):
            assert device.post(f"/login/{user}").json() == {"hello": user}
        yield laptop, phone
        for device in (laptop, phone):
            device.post("/logout")

    def test_a_user_sees_both_devices(self, devices: tuple[TestClient, TestClient]) -> None:
        for device in devices:
            sessions = device.get("/sessions").json()
            assert sorted(info["this_one"] for info in sessions) == [False, True]
            assert {info["user_agent"] for info in sessions} == {"testclient"}

    def test_a_lost_device_is_signed_out_from_another(
        self, devices: tuple[TestClient, TestClient]
    ) -> None:
        laptop, phone = devices
        (lost,) = [info for info in phone.get("/sessions").json() if not info["this_one"]]
        assert phone.delete(f"/sessions/{lost['handle']}").status_code == 204
        assert laptop.get("/sessions").status_code == 401
        assert len(phone.get("/sessions").json()) == 1

    def test_all_other_devices_are_signed_out_at_once(
        self, devices: tuple[TestClient, TestClient]
    ) -> None:
        _, phone = devices
        assert phone.delete("/sessions").status_code == 204
        assert [device.get("/sessions").status_code for device in devices] == [401, 200]

    def test_a_stranger_is_told_to_log_in(self, module: ModuleType) -> None:
        stranger = TestClient(module.app)
        answers = [stranger.get("/sessions"), stranger.delete("/sessions")]
        assert [answer.status_code for answer in answers] == [401, 401]


def submit(browser: TestClient, path: str, **fields: str) -> str:
    """Load the page, send one of its forms with the page's token, return the page that follows."""
    token = form_token(browser.get("/").text)
    response = browser.post(path, data={"csrf": token, **fields})
    assert response.status_code == 200
    assert [answer.status_code for answer in response.history] == [303]
    return response.text


def form_token(page: str) -> str:
    return str(re.findall(r'name="csrf" value="([^"]+)"', page)[0])


def visits(page: str) -> int:
    return int(re.findall(r'<p class="count">(\d+)</p>', page)[0])


def cart(page: str) -> list[tuple[str, int]]:
    lines = re.findall(r'class="grow">([^<]+)</span>\s*<span class="muted">\W+(\d+)</span>', page)
    return [(item, int(quantity)) for item, quantity in lines]


def own_handle(page: str) -> str:
    return str(re.findall(r"<dt>Handle</dt><dd><code>([0-9a-f]{12})</code>", page)[0])


def other_devices(page: str) -> list[str]:
    return re.findall(r'name="handle" value="([0-9a-f]{12})"', page)
