"""What RATES.md says of names is what was judged."""

from __future__ import annotations

from tests.fault_detection.probe_names import BEGIN, END, LARGEST_CLASS, page, stored
from tests.fault_detection.summary import PAGE

LEAST = 0.8


def test_the_page_is_what_was_judged() -> None:
    assert f"{BEGIN}\n\n{page(stored())}\n\n{END}" in PAGE.read_text()


def test_by_logits_alone_most_faults_are_named_or_in_a_small_class() -> None:
    by_fault = stored()["all logits, bfloat16"]
    right = [name for name, faults in by_fault.items() if name in faults and len(faults) <= LARGEST_CLASS]
    assert len(right) >= LEAST * len(by_fault)
