"""A pytest plugin: `pytest --conformance-candidate my_port` has a test per case, and per operation and compute dtype.

A port's own repository needs nothing but this distribution installed. Without the option nothing else is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # NumPy and the harness are imported only when a candidate is given
    from grok_conformance.harness.judging.verdict import CandidateVerdict

Check = Callable[["CandidateVerdict"], str]
"""Returns why a test fails, an empty string where it passes."""


class NonconformingError(Exception):
    """Raised by a test that fails; the message is all that is shown."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("grok-conformance")
    group.addoption(
        "--conformance-candidate",
        action="append",
        default=[],
        metavar="NAME",
        help="judge this port: its entry point, package.module, path/to/file.py or a program; may be repeated",
    )
    group.addoption("--conformance-case", default="*", metavar="GLOB", help="only the golden cases that match")
    group.addoption(
        "--conformance-waivers",
        type=Path,
        metavar="FILE",
        help="known and accepted deviations: see harness/judging/waivers.py",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of every candidate given, before `-k` and the like select."""
    for name in config.getoption("--conformance-candidate"):
        items += Port.from_parent(session, name=name, nodeid=f"conformance/{name}").collect()


class Port(pytest.Collector):
    """A candidate: it runs and is judged once, when its first test asks for the verdict."""

    judged: CandidateVerdict | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test per golden case, and one per operation and compute dtype; raises UsageError."""
        from grok_conformance.harness import pytest_checks  # noqa: PLC0415 - see the top of the page

        try:
            found = pytest_checks.checks(self.name, *self.restrictions())
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        for name, check in found.items():
            yield Test.from_parent(self, name=name, check=check)

    def restrictions(self) -> tuple[str, Path | None]:
        """Return the glob of cases and the file of waivers."""
        return self.config.getoption("--conformance-case"), self.config.getoption("--conformance-waivers")

    def verdict(self) -> CandidateVerdict:
        """Return the verdict on the candidate; a program that cannot be started ends the session."""
        from grok_conformance.harness import pytest_checks  # noqa: PLC0415 - see the top of the page

        if self.judged is None:
            try:
                self.judged = pytest_checks.judge(self.name, *self.restrictions())
            except ValueError as error:
                pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)
        return self.judged


class Test(pytest.Item):
    """One case, or one operation in one compute dtype."""

    parent: Port

    def __init__(self, *, check: Check, **arguments: Any) -> None:
        """Keep what is asked of the verdict."""
        super().__init__(**arguments)
        self.check = check

    def runtest(self) -> None:
        """Fail with the harness's own explanation."""
        if problem := self.check(self.parent.verdict()):
            raise NonconformingError(problem)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *arguments: Any) -> Any:
        """Return the explanation alone, without a traceback through the harness."""
        if isinstance(excinfo.value, NonconformingError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *arguments)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return what stands above a failure."""
        return self.path, None, f"{self.parent.name}: {self.name}"
