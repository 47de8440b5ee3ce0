"""What `--case` can ask for, by name: presets and their cases, stored, of probes and of sweeps, and why each exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grok_conformance.harness.cases.drawn import FPROP_DTYPES, stored_id
from grok_conformance.harness.cases.probes import PROBES
from grok_conformance.harness.cases.suite import CASES, PRESETS
from grok_conformance.harness.cases.sweeps import PREFIX as SWEEP
from grok_conformance.harness.cases.sweeps import SWEEPS, Sweep, config_of
from grok_conformance.harness.contract.configuration import LanguageModelConfig

STORED, PROBE, SWEPT = "stored in the golden set", "a probe, drawn by its recipe", "a sweep, drawn by the seed of a run"


@dataclass(frozen=True)
class AskedPreset:
    """A preset: of what kind it is, why it exists, its sizes, and which of them the seed of a run draws anew."""

    kind: str
    why: str
    config: LanguageModelConfig
    drawn: tuple[str, ...] = ()

    @property
    def sizes(self) -> str:
        """The sizes by axis letter."""
        return sizes(self.config) + "".join(f", {name} drawn by the seed" for name in self.drawn)


@dataclass(frozen=True)
class AskedCase:
    """A case in all its compute dtypes: of what kind its preset is, why it exists, and what it must show."""

    kind: str
    why: str
    dtypes: tuple[str, ...] = FPROP_DTYPES
    detects: tuple[str, ...] = ()


def asked_presets() -> dict[str, AskedPreset]:
    """Return every preset by name."""
    return {
        **{name: AskedPreset(STORED, row.why, row.config) for name, row in PRESETS.items()},
        **{name: AskedPreset(PROBE, probe.why, probe.config) for name, probe in PROBES.items()},
        **{
            f"{SWEEP}{sweep.name}": AskedPreset(SWEPT, why_of(sweep), config_of(sweep, 0), tuple(sweep.drawn))
            for sweep in SWEEPS
        },
    }


def asked_cases() -> dict[str, AskedCase]:
    """Return every case by its name without the compute dtype."""
    return {
        **{row.name: AskedCase(STORED, row.why, row.fprop_dtypes, row.detects) for row in CASES},
        **{f"{name}/{row.name}": AskedCase(PROBE, row.why) for name, probe in PROBES.items() for row in probe.cases},
        **{
            f"{SWEEP}{sweep.name}/sweep/{request.name}": AskedCase(SWEPT, request.why)
            for sweep in SWEEPS
            for request in sweep.requests
        },
    }


def why_of(sweep: Sweep) -> str:
    """Return why a sweep exists: what its requests are for, each of one kind told once."""
    return "; ".join(dict.fromkeys(request.why for request in sweep.requests))


def drawn_cases() -> dict[str, str]:
    """Return the id of every case that is drawn and not stored, and why it exists."""
    return {
        f"{name}.{dtype}": case.why
        for name, case in asked_cases().items()
        if case.kind != STORED
        for dtype in case.dtypes
    }


def drawn_presets() -> dict[str, str]:
    """Return every preset that is drawn and not stored, and its sizes."""
    return {name: preset.sizes for name, preset in asked_presets().items() if preset.kind != STORED}


def without_dtype(name: str) -> str:
    """Return the name of a case in all compute dtypes, also of one drawn again, from any of its ids."""
    plain = stored_id(name)
    return plain.rpartition(".")[0] if plain.endswith(tuple(f".{dtype}" for dtype in FPROP_DTYPES)) else plain


def all_names() -> list[str]:
    """Return the names of all presets and cases."""
    return [*asked_presets(), *asked_cases()]


def explain_asked(name: str) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of a preset or of a case, each with the word before it; nothing of other names."""
    presets, cases, case_name = asked_presets(), asked_cases(), without_dtype(name)
    if name in presets:
        yield f"{name}: a preset", presets[name].kind
        yield "exists for", presets[name].why
        yield "sizes", presets[name].sizes
        yield from (("cases", case) for case in cases if case.startswith(f"{name}/"))
        yield "run by", f"python -m grok_conformance run --case '{name}/*'"
    elif case_name in cases:
        case = cases[case_name]
        yield f"{case_name}: a case", f"its preset is {case.kind}"
        yield "exists for", case.why
        yield from [("must show", ", ".join(case.detects))] if case.detects else ()
        asked = f"'{case_name}.*'" if len(case.dtypes) > 1 else f"{case_name}.{case.dtypes[0]}"
        yield "run by", f"python -m grok_conformance run --case {asked}"


def sizes(config: LanguageModelConfig) -> str:
    """Return the sizes of a configuration by axis letter."""
    letters = " ".join(f"{axis}={size}" for axis, size in config.axis_sizes.items())
    return f"layers={config.model.num_layers} {letters}"
