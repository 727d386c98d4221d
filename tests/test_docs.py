"""The documentation says what is so: its code runs, its tables and links match the source.

Every ```python block of a file runs, one after the other, in one namespace. What a reader need not
see stands in a comment that begins with `<!-- check`. Either may `await`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, TypeAlias

import pytest
from itsdangerous import TimestampSigner
from sqlalchemy import create_mock_engine
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import sessionware
from sessionware import (
    MemoryStore,
    ResponseAlreadyStarted,
    Session,
    SessionManager,
    SessionMiddleware,
)
from sessionware.config import DEFAULTS
from sessionware.stores.protocol import Found, Stamp
from sessionware.stores.schema import Schema
from tests.asgi.site import statements as statements_executed

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "sessionware"
SCHEMA = ROOT / "docs" / "schema.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:```(?P<language>\w*)(?: needs=(?P<needs>\w+))?|<!-- check)\n(?P<text>.*?)^(?:```|-->)$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)(?P<path>[^)#\s]*)#?(?P<anchor>[^)\s]*)\)")
CODE = re.compile(r"`([^`\n]+)`")
SECRET = "".join(map(chr, range(48, 96)))
# A path of ours, as it is written in code spans.
OURS = re.compile(r"(?:src|tests|docs|examples|\.ci)/[\w./-]*[\w/]")

Act: TypeAlias = Callable[[Any], object]


class Block(NamedTuple):
    language: str
    text: str
    line: int
    needs: str | None


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, hidden checks among them as `python`."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        language = found["language"]
        line = text.count("\n", 0, found.start("text"))
        yield Block("python" if language is None else language, found["text"], line, found["needs"])


def tables(page: Path, heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, without their head lines."""
    _, _, section = page.read_text().partition(f"\n{heading}\n")
    section = re.split(r"^#", section, maxsplit=1, flags=re.M)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    head = [index for index, row in enumerate(cells) if set("".join(row)) <= {"-"} and "".join(row)]
    return [row for index, row in enumerate(cells) if index not in head and index + 1 not in head]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    prose = BLOCK.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_of_the_documentation_runs(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("ENCRYPTION_KEY", bytes(range(32)).hex())
    namespace: dict[str, Any] = {"__name__": "docs"}
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.language != "python":
                continue
            if block.needs:
                pytest.importorskip(block.needs)
            code: CodeType = compile(
                "\n" * block.line + block.text,
                str(page),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            outcome = eval(code, namespace)
            if inspect.iscoroutine(outcome):
                runner.run(outcome)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_the_documentation_resolves(page: Path) -> None:
    for link in LINK.finditer(BLOCK.sub("", page.read_text())):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), link[0]
        assert not link["anchor"] or link["anchor"] in anchors(target), link[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_the_documentation_names_exists(page: Path) -> None:
    spans = CODE.findall(BLOCK.sub("", page.read_text()))
    missing = [span for span in spans if OURS.fullmatch(span) and not (ROOT / span).exists()]
    assert missing == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {link["path"] for link in LINK.finditer((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_first_code_block_of_the_readme_runs_the_demo() -> None:
    assert next(blocks(ROOT / "README.md")).text == "make demo\n"


def test_every_make_target_that_the_documentation_names_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {target for page in PAGES for target in re.findall(r"\bmake ([a-z-]+)\b", code(page))}
    assert named
    assert named <= targets


def code(page: Path) -> str:
    """All code of a page: spans, and blocks that are not Python."""
    shown = [block.text for block in blocks(page) if block.language != "python"]
    return "\n".join([*CODE.findall(BLOCK.sub("", page.read_text())), *shown])


def test_the_settings_table_lists_every_setting_in_order_with_its_default() -> None:
    rows = tables(ROOT / "README.md", "## Settings")
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows}

    assert documented.pop("secret_key") == "required"
    expected = {name: value for name, value in DEFAULTS.items() if name != "secret_key"}
    assert {name: ast.literal_eval(text) for name, text in documented.items()} == expected
    assert list(documented) == list(expected)


def test_the_defaults_of_the_middleware_are_those_of_the_settings() -> None:
    signature = inspect.signature(SessionMiddleware).parameters
    own = {name: signature[name].default for name in signature.keys() & DEFAULTS.keys()}
    assert own
    assert own == {name: DEFAULTS[name] for name in own}


@pytest.mark.parametrize(
    ("heading", "owner"), [("## The session", Session), ("## The manager", SessionManager)]
)
def test_every_name_in_the_tables_of_methods_exists(heading: str, owner: type) -> None:
    spans = [span for row in tables(ROOT / "README.md", heading) for span in CODE.findall(row[0])]
    names = {re.split(r"\W", span)[0] for span in spans} - {"dict"}
    assert names
    known = {*dir(owner), *vars(owner).get("__annotations__", {})}
    assert names <= known


def test_every_exception_that_is_exported_is_in_the_table_of_errors() -> None:
    documented = {row[0].strip("`") for row in tables(ROOT / "README.md", "## Errors")}
    exported = {
        name
        for name in sessionware.__all__
        if isinstance(found := getattr(sessionware, name), type) and issubclass(found, Exception)
    }
    assert documented == exported - {"SessionError"}


def test_the_map_of_the_architecture_names_every_module_and_no_other() -> None:
    assert set(layers()) == {place(path) for path in modules()}


def test_a_module_imports_only_from_its_own_layer_and_those_before_it() -> None:
    layer = layers()
    order = list(dict.fromkeys(layer.values()))
    upward = [
        f"{place(path)} imports {place(target)}"
        for path in modules()
        for target in imported(path)
        if order.index(layer[place(target)]) > order.index(layer[place(path)])
    ]
    assert order[0] == "core"
    assert upward == []


def test_the_core_knows_no_database_no_framework_and_no_event_loop() -> None:
    shells = {"anyio", "asyncio", "cachetools", "sqlalchemy", "starlette", "trio"}
    layer = layers()
    for path in modules():
        if layer[place(path)] == "core":
            roots = {name.split(".")[0] for name, _ in imports(path, top_level=True)}
            assert not roots & shells, path


def layers() -> dict[str, str]:
    """The layer of each place in the map of the architecture."""
    page = ROOT / "docs" / "architecture.md"
    return {row[0].strip("`"): row[1] for row in tables(page, "## The map")}


def modules() -> list[Path]:
    found = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert found
    return found


def place(path: Path) -> str:
    """What the map calls a module; the conformance suite is one entry."""
    name = path.relative_to(SOURCE).as_posix()
    return "testing/" if name.startswith("testing/") else name


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of what a module imports at run time, in absolute names."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT / "src").parent.parts
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)
        elif not top_level or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def imported(path: Path) -> Iterator[Path]:
    """The modules of ours that a module imports at run time."""
    for module, name in imports(path):
        for dotted in (f"{module}.{name}", module):
            file = (ROOT / "src" / dotted.replace(".", "/")).with_suffix(".py")
            if file.is_file():
                yield file
                break


DIALECTS = [
    ("SQLite", "sqlite://"),
    ("PostgreSQL", "postgresql+psycopg://"),
    ("MariaDB and MySQL", "mariadb+pymysql://"),
    ("MariaDB and MySQL", "mysql+pymysql://"),
]


@pytest.mark.parametrize(("heading", "url"), DIALECTS)
def test_the_documented_ddl_is_what_the_schema_makes(heading: str, url: str) -> None:
    made: list[str] = []

    def note(statement: Any, *_: Any, **__: Any) -> None:
        made.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine(url, note)
    Schema().metadata.create_all(engine, checkfirst=False)
    assert documented_ddl(heading) == statements(";".join(made))


@pytest.mark.parametrize(("heading", "url"), DIALECTS)
def test_the_alembic_recipe_makes_the_documented_tables(heading: str, url: str) -> None:
    operations = pytest.importorskip("alembic.operations")
    migration = pytest.importorskip("alembic.runtime.migration")
    (recipe,) = (block for block in blocks(SCHEMA) if block.needs == "alembic")
    namespace: dict[str, Any] = {}
    exec(compile(recipe.text, str(SCHEMA), "exec", dont_inherit=True), namespace)
    output = io.StringIO()
    options = {"as_sql": True, "output_buffer": output}
    context = migration.MigrationContext.configure(url=url, opts=options)

    with operations.Operations.context(context):
        namespace["upgrade"]()
        upgraded = output.getvalue()
        namespace["downgrade"]()

    assert statements(upgraded) == documented_ddl(heading)
    dropped = statements(output.getvalue()) - statements(upgraded)
    assert dropped == {"DROP TABLE sessions", "DROP TABLE sessions_retired"}


def documented_ddl(heading: str) -> set[str]:
    _, _, section = SCHEMA.read_text().partition(f"### {heading}\n")
    found = re.search(r"```sql\n(.*?)```", section, flags=re.S)
    assert found
    return statements(found[1])


def statements(sql: str) -> set[str]:
    """The statements of a script, whatever their order and white space."""
    spaced = re.sub(r"([()])", r" \1 ", sql)
    return {" ".join(part.split()) for part in spaced.split(";")} - {""}


class CountingStore(MemoryStore):
    """Counts what a SQL store would ask its database to read a session."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def load(self, sid_hash: bytes, now: int) -> Found:
        self.reads += 1
        return super().load(sid_hash, now)

    def stamp(self, sid_hash: bytes) -> Stamp | None:
        self.reads += 1
        return super().stamp(sid_hash)


class Site:
    """An application with a session middleware, and a browser; the handler is what a test says."""

    def __init__(self, middleware: Any, **settings: Any) -> None:
        self.middleware = middleware
        self.store = CountingStore()
        ours = {"store": self.store, **settings} if middleware is SessionMiddleware else {}
        app = Starlette(
            routes=[Route("/", self._serve), WebSocketRoute("/socket", self._accept)],
            middleware=[Middleware(middleware, secret_key=SECRET, **ours)],
        )
        self.browser = TestClient(app)
        self._act: Act = bool
        self._later: Act = bool

    def _serve(self, request: Request) -> Response:
        later = self._later
        self._act(request.session)
        return Response(background=BackgroundTask(lambda: later(request.session)))

    async def _accept(self, socket: WebSocket) -> None:
        socket.session["a"] = 1
        await socket.accept()
        await socket.close()

    def visit(self, act: Act, later: Act = bool, browser: TestClient | None = None) -> None:
        self._act, self._later = act, later
        (browser or self.browser).get("/")

    def content(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        self.visit(seen.update)
        return seen

    @property
    def cookie(self) -> str:
        return self.browser.cookies["session"]

    @cookie.setter
    def cookie(self, value: str) -> None:
        self.browser.cookies.clear()
        self.browser.cookies.set("session", value)


def nested_change(site: Site) -> str:
    site.visit(lambda session: session.update(cart=[]))
    site.visit(lambda session: session["cart"].append("tea"))
    return "saved" if site.content()["cart"] else "lost"


def copy_after_logout(site: Site) -> str:
    site.visit(lambda session: session.update(user_id="alice"))
    copy = site.cookie
    site.visit(lambda session: session.clear())
    site.cookie = copy
    return "still logs in" if "user_id" in site.content() else "opens nothing"


def parallel_writes(site: Site) -> str:
    site.visit(lambda session: session.update(a=1))
    tab = TestClient(site.browser.app, cookies={"session": site.cookie})

    def write_while_another_tab_does(session: Any) -> None:
        session["b"] = 2
        site.visit(lambda session: session.update(c=3), browser=tab)

    site.visit(write_while_another_tab_does)
    return "both are kept" if {"b", "c"} <= site.content().keys() else "one is lost"


def late_change(site: Site) -> str:
    site.visit(lambda session: session.update(a=1))
    try:
        site.visit(bool, later=lambda session: session.update(b=2))
    except ResponseAlreadyStarted:
        return "an error"
    return "saved" if "b" in site.content() else "lost in silence"


def handshake(site: Site) -> str:
    with site.browser.websocket_connect("/socket") as socket:
        headers: list[tuple[bytes, bytes]] = list(socket.extra_headers or ())
    if cookies := [value for name, value in headers if name == b"set-cookie"]:
        site.cookie = cookies[0].decode().partition(";")[0].partition("=")[2]
    return "saved" if "a" in site.content() else "lost"


def tuples(site: Site) -> str:
    site.visit(lambda session: session.update(pair=(1, 2)))
    return f"comes back as a {type(site.content()['pair']).__name__}"


def readable(site: Site) -> str:
    site.visit(lambda session: session.update(note="in the open"))
    padded = site.cookie.encode() + b"==="
    return "readable" if b"in the open" in urlsafe_b64decode(padded) else "not in it"


def length(site: Site) -> str:
    site.visit(lambda session: session.update(text="x" * 10_000))
    bounds = {"under 200 bytes": range(200), "over 4096 bytes": range(4097, 10**6)}
    return next(text for text, bound in bounds.items() if len(site.cookie) in bound)


def not_json(site: Site) -> str:
    site.cookie = TimestampSigner(SECRET).sign(b64encode(b"no JSON")).decode()
    try:
        return "the data" if site.content() else "a new session"
    except ValueError:
        return "a server error"


def queries(site: Site) -> str:
    """First on a store without a channel, then on a SQLite file."""
    with_channel = Site(site.middleware, store="sqlite:///sessions.db")
    for each in (site, with_channel):
        each.visit(lambda session: session.update(a=1))
    site.store.reads = 0
    with statements_executed() as executed:
        assert site.content() == with_channel.content() == {"a": 1}
    words = {0: "none", 1: "one"}
    first, second = words[site.store.reads], words[len(executed)]
    return first if first == second else f"{first}; {second} with a channel"


PROBES: dict[str, Callable[[Site], str]] = {
    'a nested change, `session["cart"].append(item)`': nested_change,
    "a copy of the cookie, after the logout": copy_after_logout,
    "two parallel requests that write different keys": parallel_writes,
    "a change after the response has begun": late_change,
    "a change in a WebSocket handshake": handshake,
    "a tuple": tuples,
    "the data, for who has the cookie": readable,
    "the cookie of a session of 10 KB": length,
    "a signed cookie that is not JSON": not_json,
    "database queries to read a session": queries,
}


def test_the_comparison_with_starlette_is_what_both_do() -> None:
    measured = [
        [label, probe(Site(StarlettesMiddleware)), probe(Site(SessionMiddleware))]
        for label, probe in PROBES.items()
    ]
    assert tables(ROOT / "README.md", "## How it compares") == measured
