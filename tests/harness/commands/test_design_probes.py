"""`design-probes`: what cannot be searched for is refused in one line."""

from __future__ import annotations

import pytest

from grok_conformance.harness.__main__ import main


@pytest.mark.parametrize(
    ("case", "fault", "problem"),
    [
        ("probe_moe/prefill/rows.bfloat16", "gelu_erff", "no fault 'gelu_erff'; did you mean gelu_erf"),
        ("*", "gelu_erf", "name one case of a probe"),
        ("probe_none/prefill/rows.bfloat16", "gelu_erf", "probe_none/prefill/rows.bfloat16"),
    ],
)
def test_an_unknown_case_or_fault_is_told(
    case: str, fault: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["design-probes", case, "--faults", fault]) == 2
    assert problem in capsys.readouterr().err


def test_faults_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["design-probes", "probe_moe/prefill/rows.bfloat16"])
    assert ended.value.code == 2
    assert "--faults" in capsys.readouterr().err
