"""The project that docs/django.md shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import sessionware
from sessionware.django_settings import DJANGO_NAMES
from tests.apps import SECRET

PAGE = (Path(__file__).parents[2] / "docs" / "django.md").read_text()
FILE = re.compile(r"`(?P<name>shop/\w+\.py)`:\n\n```py\n(?P<code>.*?)^```$", re.M | re.S)

SCRIPT = """
import django
django.setup()
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("check")
call_command("migrate", verbosity=0)
user = User.objects.create_user("alice", password="first and long")


def browser():
    return Client(SERVER_NAME="shop.example", headers={})


def post(client, path, **data):
    return client.post(path, data, secure=True)


def get(client, path):
    return client.get(path, secure=True)


here, elsewhere = browser(), browser()
assert post(here, "/cart/tea").json() == {"cart": ["tea"]}
anonymous = here.cookies["sessionid"].value
assert here.cookies["sessionid"]["secure"]
for each in (here, elsewhere):
    assert post(each, "/login", username="alice", password="first and long").status_code == 302
assert here.cookies["sessionid"].value != anonymous
assert post(here, "/cart/milk").json() == {"cart": ["tea", "milk"]}
assert get(here, "/cart").json() == {"cart": ["tea", "milk"]}
assert sorted(current for _, current in get(here, "/devices").json()["devices"]) == [False, True]
assert post(here, "/devices/log-out").json() == {"ended": 1}
assert get(elsewhere, "/devices").status_code == 302
assert get(here, "/devices").status_code == 200

assert post(elsewhere, "/login", username="alice", password="first and long").status_code == 302
new = "second and long"
data = {"old_password": "first and long", "new_password1": new, "new_password2": new}
assert post(here, "/password", **data).status_code == 302
assert get(here, "/devices").status_code == 200
assert get(elsewhere, "/devices").status_code == 302

stolen = here.cookies["sessionid"].value
assert post(here, "/logout").status_code == 302
here.cookies["sessionid"] = stolen
assert get(here, "/devices").status_code == 302

from sessionware.django import manager
assert post(elsewhere, "/login", username="alice", password=new).status_code == 302
@@REVOKE@@
assert get(elsewhere, "/devices").status_code == 302
call_command("clearsessions")
assert (settings.FOLDER / "db.sessions.sqlite3").exists()
manager().shutdown()
print("it all works")
"""


def test_the_documented_project_works(tmp_path: Path) -> None:
    files = {found["name"]: found["code"] for found in FILE.finditer(PAGE)}
    assert set(files) == {"shop/settings.py", "shop/views.py", "shop/urls.py"}
    (tmp_path / "shop").mkdir()
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    shown = re.search(r"^manager\(\)\.revoke_user.*$", PAGE, flags=re.M)
    assert shown
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.replace("@@REVOKE@@", shown[0])],
        cwd=tmp_path,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "SECRET_KEY": SECRET,
            "SHOP_DATA": str(tmp_path),
            "PYTHONPATH": os.pathsep.join([".", str(Path(sessionware.__path__[0]).parent)]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.endswith("it all works\n"), done.stderr


def test_the_table_of_settings_names_each_with_its_keyword() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, flags=re.M))
    assert {name: keyword for keyword, name in DJANGO_NAMES.items()}.items() <= rows.items()
