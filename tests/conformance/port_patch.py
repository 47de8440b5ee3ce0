"""A fault put into `torch_eager`: the names that are replaced, and for how long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations


@dataclass(frozen=True)
class Fault:
    """A patch: {name: replacement} per module, where it must be found, and in which cases."""

    at: frozenset[str]
    cases: str
    operations: Mapping[str, Any]
    model: Mapping[str, Any]
    package: Mapping[str, Any]


def fault(
    at: str,
    cases: str,
    *,
    model: Mapping[str, Any] | None = None,
    package: Mapping[str, Any] | None = None,
    **operations: Any,
) -> Fault:
    return Fault(frozenset(at.split()), cases, operations, model or {}, package or {})


@contextlib.contextmanager
def patched(*faults: Fault) -> Iterator[None]:
    """Put faults into the port while the context lasts; several may not patch the same name."""
    with pytest.MonkeyPatch.context() as patch:
        for one in faults:
            for module, names in ((operations, one.operations), (model, one.model), (torch_eager, one.package)):
                for name, replacement in names.items():
                    patch.setattr(module, name, replacement)
        yield
