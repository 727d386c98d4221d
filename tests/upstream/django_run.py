"""Runs Django's own session tests against our engine, and writes down how each one ended.

`test_django_suite` starts it in a process of its own: `django_run.py TESTS STORE TABLE REPORT`.
TESTS is the folder of Django's released tests; STORE is the URL of a database, or "derived" for
what follows from DATABASES; REPORT is a file to be written.
"""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import importlib
import json
import logging
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any

ENGINE = "sessionware.django"


class Result(unittest.TextTestResult):
    """Remembers every test by its outcome."""

    outcomes: dict[str, str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes = {}

    def _note(self, test: unittest.TestCase, outcome: str) -> None:
        _, kind, name = test.id().rsplit(".", 2)
        self.outcomes[f"{kind}.{name}"] = outcome

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note(test, "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, "failed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note(test, f"failed: {err[0].__name__}")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed")


def main(tests: str, store: str, table: str, report: str) -> None:
    warnings.simplefilter("error")
    sys.path.insert(0, tests)
    from django.conf import settings

    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(
        SECRET_KEY="for the tests of Django only, 0123456789",
        SESSION_ENGINE=ENGINE,
        SESSIONWARE={} if store == "derived" else {"store": store, "table_name": table},
        DATABASES={"default": sqlite},
        # As in tests/test_sqlite.py, the settings that Django runs its own tests with.
        USE_TZ=False,
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "sessions_tests",
        ],
    )
    import django

    django.setup()
    logging.getLogger("django").addHandler(logging.NullHandler())
    released = importlib.import_module("sessions_tests.tests")
    engine = importlib.import_module(ENGINE)
    from django.test import TestCase
    from django.test.runner import DiscoverRunner

    class SessionwareTests(released.SessionTestsMixin, TestCase):  # type: ignore[misc,name-defined]
        """Django's contract of an engine, which it runs against each of its own."""

        backend = engine.SessionStore

    runner = DiscoverRunner(verbosity=0, interactive=False)
    loader = unittest.defaultTestLoader
    suite = unittest.TestSuite(
        loader.loadTestsFromTestCase(case)
        for case in (SessionwareTests, released.SessionMiddlewareTests)
    )
    runner.setup_test_environment()
    databases = runner.setup_databases()
    result = unittest.TextTestRunner(resultclass=Result, stream=sys.stderr, verbosity=0).run(suite)
    assert isinstance(result, Result)
    runner.teardown_databases(databases)
    runner.teardown_test_environment()
    uses = type(engine.manager().store.store).__name__
    engine.manager().shutdown()
    Path(report).write_text(json.dumps({"outcomes": result.outcomes, "store": uses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
