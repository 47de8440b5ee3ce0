"""The fault table: what ports of Grok-1 and its relatives really got wrong, one row each.

A row is found in the module of its kind: an operation replaced (those of attention apart), weights misread, state
(positions, cache) misled, execution (shards, capacity, order), precision (too few digits), or kernels (split, merged,
laid out or indexed wrongly). Adding a fault is adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from grok_conformance.harness.faults import attention, execution, kernels, operation, precision, state, weights
from grok_conformance.harness.faults.fault import Change, Fault, change_of, mutant

__all__ = ["ALL_FAULTS", "FAULTS", "Change", "Fault", "change_of", "faults_at", "mutant"]

FAULTS: Mapping[str, Fault] = {
    fault.id: fault for module in (operation, attention, weights, state, execution) for fault in module.FAULTS
}

"""The catalogue: faults whose power is predicted, and whose rates are measured one by one."""

ALL_FAULTS: Mapping[str, Fault] = {
    **FAULTS, **{fault.id: fault for module in (precision, kernels) for fault in module.FAULTS}
}  # fmt: skip
"""The catalogue and the faults of precision and of kernels, which are named like them; the zoo of ways measures the
former, and a real port has the latter put in."""


def faults_at(operation_name: str) -> tuple[Fault, ...]:
    """Return the faults that are first visible at an operation."""
    return tuple(fault for fault in ALL_FAULTS.values() if operation_name in fault.operations)
