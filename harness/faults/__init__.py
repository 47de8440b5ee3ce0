"""The fault table: what ports of Grok-1 and its relatives really got wrong, one row each.

A row is found in the module of its kind: an operation replaced (those of attention apart), weights misread, state
(positions, cache) misled, or execution (shards, capacity, order). Adding a fault is adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from grok_conformance.harness.faults import attention, execution, operation, state, weights
from grok_conformance.harness.faults.fault import Change, Fault, change_of, mutant

__all__ = ["FAULTS", "Change", "Fault", "change_of", "faults_at", "mutant"]

FAULTS: Mapping[str, Fault] = {
    fault.id: fault for module in (operation, attention, weights, state, execution) for fault in module.FAULTS
}


def faults_at(operation_name: str) -> tuple[Fault, ...]:
    """Return the faults that are first visible at an operation."""
    return tuple(fault for fault in FAULTS.values() if operation_name in fault.operations)
