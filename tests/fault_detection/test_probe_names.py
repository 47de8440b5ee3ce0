"""What PROBE_NAMES.md says is what was judged."""

from __future__ import annotations

from tests.fault_detection.probe_names import LARGEST_CLASS, PAGE, page, stored

LEAST = 0.8


def test_the_page_is_what_was_judged() -> None:
    assert PAGE.read_text() == page(stored())


def test_by_logits_alone_most_faults_are_named_or_in_a_small_class() -> None:
    by_fault = stored()["all logits, bfloat16"]
    right = [name for name, faults in by_fault.items() if name in faults and len(faults) <= LARGEST_CLASS]
    assert len(right) >= LEAST * len(by_fault)
