"""A pytest plugin: `pytest --conformance-candidate my_port` has a test per case, and per operation and compute dtype.

A port's own repository needs nothing but this distribution installed; what the options say may stand in its
configuration. `-k`, node ids and the like select what is run. Without a candidate nothing else is imported.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grok_conformance.harness.commands import seed

if TYPE_CHECKING:  # NumPy and the harness are imported only when a candidate is given
    from grok_conformance.harness.judging.verdict import CandidateVerdict
    from grok_conformance.harness.pytest_checks import Check

FOLDER = "conformance/"
"""What the node ids of these tests begin with; there is no such folder."""


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
    group.addoption(
        "--conformance-case",
        action="append",
        default=[],
        metavar="GLOB",
        help="only the golden cases that match; may be repeated",
    )
    group.addoption(
        "--conformance-waivers",
        type=Path,
        metavar="FILE",
        help="known and accepted deviations: see harness/judging/waivers.py",
    )
    group.addoption(
        "--conformance-seed", type=seed, metavar="N", help="draw what an earlier session drew (default: something else)"
    )
    parser.addini("conformance_candidate", "ports that are judged whenever pytest runs here", type="args")
    parser.addini("conformance_case", "as --conformance-case, several if need be", type="args", default=[])
    parser.addini("conformance_waivers", "as --conformance-waivers", default="")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take node ids of these tests off the arguments, which name files; settle the seed."""
    if not hasattr(config.option, "conformance_nodes"):
        nodes = [word for word in config.args if word.startswith(FOLDER) and "::" in word]
        config.args = [word for word in config.args if word not in nodes]
        config.option.conformance_nodes, config.option.conformance_alone = nodes, not config.args
    if config.option.conformance_seed is None:
        config.option.conformance_seed, config.option.conformance_quick = any_seed(), True


def any_seed() -> int:
    """Return a seed that no earlier session need have had, the same in all workers of pytest-xdist."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return secrets.randbelow(10**6) if session is None else zlib.crc32(session.encode()) % 10**6


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of every candidate given, or those of the node ids, before `-k` and the like select."""
    nodes = config.option.conformance_nodes
    if config.option.conformance_alone:
        items.clear()
    named = [node.removeprefix(FOLDER).partition("::")[0] for node in nodes]
    given = config.getoption("--conformance-candidate") or ([] if nodes else config.getini("conformance_candidate"))
    for name in dict.fromkeys([*given, *named]):
        port = Port.from_parent(session, name=name, nodeid=f"{FOLDER}{name}")
        tests = list(port.collect())
        wanted = [node for node in nodes if node.startswith(f"{FOLDER}{name}::")]
        known = {test.nodeid: test for test in tests}
        if missing := [node for node in wanted if node not in known]:
            raise pytest.UsageError(f"{missing[0]}: no such test; `pytest --collect-only` lists them")
        chosen = [known[node] for node in wanted] or tests
        items += chosen
        report = pytest.CollectReport(port.nodeid, "passed", None, [*chosen])
        config.hook.pytest_collectreport(report=report)  # without it pytest says that no tests were collected


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell every candidate which of its tests are left: no more is run than they need."""
    for item in session.items:
        if isinstance(item, Test):
            item.parent.asked.append(item.check)


def pytest_report_collectionfinish(items: list[pytest.Item]) -> list[str]:
    """Return what will take time, since nothing is said while it does."""
    ports = dict.fromkeys(item.parent for item in items if isinstance(item, Test))
    return [
        f"conformance: {port.name} runs once, as far as {needing(len(port.asked))}, when the first of them begins"
        for port in ports
    ]


def needing(num_tests: int) -> str:
    """Return in words that so many tests need something."""
    return "1 test needs" if num_tests == 1 else f"{num_tests} tests need"


class Port(pytest.Collector):
    """A candidate: it runs and is judged once, when its first test asks for the verdict."""

    judged: CandidateVerdict | None = None

    def __init__(self, **arguments: Any) -> None:
        """Start with nothing selected."""
        super().__init__(**arguments)
        self.asked: list[Check] = []

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test per case, stored or drawn, and one per operation and compute dtype; raises UsageError."""
        from grok_conformance.harness import pytest_checks  # noqa: PLC0415 - see the top of the page

        try:
            found = pytest_checks.checks(self.name, *self.restrictions())
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        for name, check in found.items():
            yield Test.from_parent(self, name=name, check=check)

    def restrictions(self) -> tuple[list[str], int, Path | None]:
        """Return the globs of cases, none for all, the seed of what is drawn, and the file of waivers."""
        kept = self.config.getini("conformance_waivers")
        waivers = self.config.getoption("--conformance-waivers") or (self.config.rootpath / kept if kept else None)
        patterns = self.config.getoption("--conformance-case") or self.config.getini("conformance_case")
        return patterns, self.config.option.conformance_seed, waivers

    def verdict(self) -> CandidateVerdict:
        """Return the verdict on the candidate; a program that cannot be started ends the session."""
        from grok_conformance.harness import pytest_checks  # noqa: PLC0415 - see the top of the page

        if self.judged is None:
            try:
                quick = getattr(self.config.option, "conformance_quick", False)
                judge = partial(pytest_checks.judge, self.name, *self.restrictions(), self.asked, quick=quick)
                kept = self.kept()
                self.judged = judge() if kept is None else pytest_checks.judged_once(kept, judge)
            except ValueError as error:
                pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)
        return self.judged

    def kept(self) -> Path | None:
        """Return the file by which the workers of pytest-xdist share the verdict, None where there are none."""
        if not hasattr(self.config, "workerinput"):
            return None
        shared: Path = self.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined] # noqa: SLF001 - as pytest-xdist advises
        return shared / f"conformance-{hashlib.sha256(self.name.encode()).hexdigest()[:16]}.verdict"


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
