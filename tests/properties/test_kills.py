"""Every property is seen to fail on a broken implementation, and KILLS.md says on which.

`python -m pytest tests/properties/test_kills.py --write-kills` writes that table again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import jax
import pytest

from grok_conformance.harness.laws.laws import LAWS
from tests.conformance.lawless_ports import KILLS as PORT_KILLS
from tests.properties import broken
from tests.properties.broken import KILLS
from tests.properties.kill import Kill

TABLE = Path(__file__).with_name("KILLS.md")

UNSHRUNK = hypothesis.settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    verbosity=hypothesis.Verbosity.quiet,
    report_multiple_bugs=False,
)
"""The same examples in every run, and the first that fails is enough."""


@contextlib.contextmanager
def put_in(kill: Kill) -> Iterator[None]:
    """Put a broken implementation in; what JAX has compiled is forgotten before and after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kill.law, "_hypothesis_internal_use_settings", UNSHRUNK)  # what @settings sets, taken back after
        for (owner, name), replacement in kill.patches.items():
            patch.setattr(owner, name, replacement)
        if kill.traced:
            jax.clear_caches()
        yield
    if kill.traced:
        jax.clear_caches()


def name_of(kill: Kill) -> str:
    return f"{kill.law.__module__.rpartition('.')[2].removeprefix('test_')}: {sentence(kill)}"


def sentence(kill: Kill) -> str:
    return kill.law.__name__.removeprefix("test_").replace("_", " ")


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill.law.__name__}-{kill.fault}")
def test_the_property_fails_on_the_broken_implementation(kill: Kill) -> None:
    with put_in(kill), pytest.raises(AssertionError):
        kill.law()


def test_no_property_is_without_a_fault_that_it_kills() -> None:
    modules = [module for module in vars(broken).values() if isinstance(module, ModuleType)]
    laws = {
        law
        for module in modules
        if module.__name__.rpartition(".")[2].startswith("test_")
        for name, law in vars(module).items()
        if name.startswith("test_")
    }
    assert laws == {kill.law for kill in KILLS}


def test_the_published_table_is_this_one(request: pytest.FixtureRequest) -> None:
    rows = [f"| {name_of(kill)} | {kill.fault} |" for kill in KILLS]
    sentences = {law.name: law.sentence for law in LAWS}
    of_ports = [f"| {law}: {sentences[law]} | {fault} |" for law, (fault, _) in PORT_KILLS.items()]
    text = "\n".join(
        (
            "# Properties of the reference, and faults that they kill",
            "",
            "Each row is a test: the fault is put into the reference and the property must fail (`test_kills.py`).",
            "Written by `python -m pytest tests/properties/test_kills.py --write-kills`.",
            "",
            "| property | fault |",
            "|---|---|",
            *rows,
            "",
            "# Laws of any port, and faults that they kill",
            "",
            "Each fault is put into `candidates/torch_eager` (`tests/conformance/test_laws.py`).",
            "",
            "| law | fault |",
            "|---|---|",
            *of_ports,
            "",
        )
    )
    if request.config.getoption("--write-kills"):
        TABLE.write_text(text)
    assert TABLE.read_text() == text, f"write it again: python -m pytest {Path(__file__).name} --write-kills"
