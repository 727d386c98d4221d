"""A project's own tests, under Django's test runner, on a server whose test database is dropped."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy import make_url

import sessionware
from tests import services

SETTINGS = """
SECRET_KEY = "for tests only, long enough: 0123456789"
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": "@@NAME@@", "USER": "@@USER@@",
    "PASSWORD": "@@PASSWORD@@", "HOST": "@@HOST@@", "PORT": "@@PORT@@",
    "TEST": {"NAME": "@@TEST@@"},
}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "sessionware.django"]
MIDDLEWARE = [
    "sessionware.django.SessionwareMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "site_tests"
SESSION_ENGINE = "sessionware.django"
USE_TZ = True
"""

TESTS = """
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import TestCase, TransactionTestCase
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse(request.user.username))]


class Mixed:
    def test_a_login(self):
        self.client.force_login(User.objects.create_user("alice"))
        self.assertEqual(self.client.get("/").content, b"alice")
        self.assertEqual(connection.settings_dict["NAME"], "@@TEST@@")
        self.assertNotIn("sessions", connection.introspection.table_names())


class InATransaction(Mixed, TestCase):
    pass


class Committed(Mixed, TransactionTestCase):
    pass
"""


@pytest.mark.postgres
@pytest.mark.slow
def test_a_projects_tests_need_no_store_and_leave_no_connection(tmp_path: Path) -> None:
    """Django drops its test database at the end, which fails while anybody is connected."""
    url = make_url(services.require(services.POSTGRES))
    values = {
        "NAME": url.database or "",
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": str(url.port or ""),
        "TEST": f"test_sw_{uuid.uuid4().hex[:12]}",
    }
    for name, text in (("site_settings.py", SETTINGS), ("site_tests.py", TESTS)):
        for key, value in values.items():
            text = text.replace(f"@@{key}@@", value)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--no-color", "site_tests"],
        cwd=tmp_path,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "site_settings",
            "PYTHONPATH": os.pathsep.join([".", str(Path(sessionware.__path__[0]).parent)]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
