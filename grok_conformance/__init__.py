"""Numerical conformance of Grok-1 ports; the four folders beside this one are its packages.

From Python, in a test or a notebook:

    import grok_conformance as gc

    report = gc.judge("my_port.py", cases="unequal/*")            # or a module, or load(config, weights) with taps=
    assert report.passed, report
    gc.oracle(config, weights, tokens)["layers.00.moe.output"]    # every tap in float64
    gc.check_operation("moe.expert_hidden", inputs, observed, dtype="bfloat16")  # one kernel, no model

Nothing is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grok_conformance.harness.contract.tap_map import TapSource
    from grok_conformance.harness.sessions.in_process import Report, judge
    from grok_conformance.harness.sessions.one_operation import OperationReport, check_operation, oracle

__all__ = ["OperationReport", "Report", "TapSource", "check_operation", "judge", "oracle"]

_HOMES = {
    "OperationReport": "sessions.one_operation",
    "Report": "sessions.in_process",
    "TapSource": "contract.tap_map",
    "check_operation": "sessions.one_operation",
    "judge": "sessions.in_process",
    "oracle": "sessions.one_operation",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for; raises AttributeError for a name that there is not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.harness.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names that a notebook completes."""
    return [*globals(), *__all__]
