"""A finding: every bit is asked of who repeats himself; predictions follow the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.laws.draws import Draw
from grok_conformance.harness.laws.findings import Finding, held_to_bits, predicted
from grok_conformance.harness.laws.laws import LAWS, unchanged

BITWISE = next(law for law in LAWS if law.bitwise)


DRAW = Draw(seed=1, num_tokens=3, batch_size=2)


@pytest.mark.parametrize(
    ("repeats", "bitwise", "status"), [(True, False, "fail"), (False, False, "pass"), (True, True, "pass")]
)
def test_every_bit_is_asked_only_of_a_port_that_repeats_itself(status: str, *, repeats: bool, bitwise: bool) -> None:
    found = held_to_bits(Finding(BITWISE, DRAW, "pass", bitwise=bitwise), repeats=repeats)
    assert found.status == status


def test_what_a_law_predicts_is_permuted_scaled_and_renamed() -> None:
    experiment = replace(
        unchanged(DRAW), order={"e": np.array([1, 0]), "d": np.array([2, 0, 1, 3])}, factors={"moe.norm": 2.0}
    )
    x = np.arange(4.0).reshape(1, 1, 4)
    assert predicted("moe.norm", x, experiment).tolist() == [[[4.0, 0.0, 2.0, 6.0]]]
    assert predicted("moe.expert_index", np.array([[[0, 1]]]), experiment).tolist() == [[[1.0, 0.0]]]
