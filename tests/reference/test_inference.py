"""The model is run on sound input alone: what is wrong is said in one line before any compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from grok_conformance import reference
from tests.reference.published import run
from tests.reference.shardable import model

TOKENS = np.random.default_rng(0).integers(1, 61, (3, 6)).astype(np.int32)


@pytest.mark.parametrize(
    ("tokens", "keywords", "message"),
    [
        (np.array([[1, 61]]), {}, "token id 61 at row 0, position 1"),
        (np.array([[-1, 5]]), {}, "token id -1 at row 0, position 0"),
        (TOKENS, {"memory": 4}, "row 0: 6 tokens at step 0 do not fit"),
        (TOKENS, {"mesh": (1, 3)}, "3"),
        (TOKENS, {"mesh": (4, 4)}, "16 devices"),
    ],
)
def test_bad_input_is_a_one_line_error_before_any_compute(tokens: Any, keywords: dict[str, Any], message: str) -> None:
    config, params = model(num_groups=4)
    make: dict[str, Callable[[Any], Any]] = {
        "memory": lambda slots: reference.init_memory(config, 3, slots),
        "mesh": reference.make_mesh,
    }

    def apply() -> None:
        run(config, params, tokens, **{name: make[name](value) for name, value in keywords.items()})

    with pytest.raises(ValueError, match=message) as raised:
        apply()
    assert "\n" not in str(raised.value)
