"""The family of faults that no row knows is wide, and what is said of it is held to where values were changed."""

from __future__ import annotations

import pytest

from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED
from tests.fault_detection.unknown_family import CHANGES, FAMILY, PLACES, UnknownFault, family
from tests.fault_detection.unknown_faults import Outcome, rates, tried


def test_the_family_has_many_operations_changes_and_places() -> None:
    operations, changes, places = (set(names) for names in zip(*FAMILY, strict=True))
    assert len(FAMILY) == len(set(FAMILY)) >= 40
    assert operations <= set(SPECS)
    assert (changes, places) == (set(CHANGES), set(PLACES))
    assert len(operations) >= 20


@pytest.mark.parametrize(
    ("operation", "change", "place"),
    [
        ("moe.expert_gate", "halved", "expert 3"),
        ("logits", "negated", "decode steps"),
        ("attention.heads", "random noise", "head 2"),
    ],
)
def test_a_fault_of_the_family_is_named_or_placed_and_nothing_else_is_said(
    operation: str, change: str, place: str
) -> None:
    outcome = tried(UnknownFault(operation, change, place, CHANGES[change][1], "bfloat16"))
    assert outcome.placed
    assert outcome.named == (change != "random noise")
    assert not outcome.falsely_named


def test_a_known_name_another_change_and_another_place_are_false() -> None:
    fault = next(one for one in family() if one.change == "halved" and one.place)

    def outcome(*, right: bool = True, **said: object) -> Outcome:
        return Outcome(
            fault, frozenset({fault.operation}), UNEXPLAINED.__class__(**{**vars(UNEXPLAINED), **said}), right
        )

    assert not outcome(resembles="the right values times 0.5", place="only there").falsely_named
    assert outcome(faults=("gelu_erf",)).falsely_named
    assert outcome(resembles="zero").falsely_named
    assert outcome(place="only elsewhere", right=False).falsely_named
    assert rates([outcome(resembles="zero")])[-1] == "* something said that is not so: 1 of 1, 100.0%"
