from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.engines import ENGINES
from grok_conformance.harness.contract import DTYPES, tap_specs
from grok_conformance.harness.running.python_runner import import_candidate


@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_for_an_engine_converts_both_ways_and_has_a_line_for_every_tap(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine)
    monkeypatch.chdir(tmp_path)
    assert main(["new-candidate", "some_port", "--engine", engine]) == 0
    text = Path("some_port.py").read_text()
    assert all(text.count(f'TapSource("{spec.name}"') == 1 for spec in tap_specs())
    module = import_candidate("some_port.py")
    assert module.INFO.taps == ("logits",)
    everything = text.replace("    # TapSource(", "    TapSource(")
    Path("all_taps.py").write_text(everything)
    assert set(import_candidate("all_taps.py").INFO.taps) == {spec.name for spec in tap_specs()}
    if engine != "numpy":
        for dtype in DTYPES.values():
            x = np.arange(-3, 3).astype(dtype)
            there = getattr(module, f"to_{engine}")(x)
            np.testing.assert_array_equal(module.to_numpy(there), x)
            assert module.to_numpy(there).dtype == dtype
