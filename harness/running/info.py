"""What a candidate says of itself, as its runner wrote it into `info.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from grok_conformance.harness.contract import (
    DTYPES,
    QUANTISATIONS,
    CandidateInfo,
    LogitForm,
    select_taps,
    tap_name,
    tap_specs,
)
from grok_conformance.harness.formats.files import FileError, read_json
from grok_conformance.harness.formats.suggestions import unknown

MAX_LINE = 500
MAX_INFO_BYTES = 4 * 2**20
MAX_GLOBS, MAX_GLOB = 400, 100
"""Globs of taps in an answer, and characters of each: all are tried on every tap."""

MAX_LAYERS = 128
"""Layers of the largest model of which a candidate may name taps one by one."""

_TAPS = frozenset(
    tap_name(layer, spec.operation)
    for spec in tap_specs()
    for layer in (range(MAX_LAYERS) if spec.per_layer else (None,))
)


def read_info(path: Path | None) -> CandidateInfo:
    """Read what a candidate says of itself; raises FileError where it is not what it should be, or not there."""
    if path is None:
        raise FileError('info.json was not written: {"name": …, "version": …, "taps": [globs of the taps shown]}')
    data = read_json(path, MAX_INFO_BYTES)
    match data:
        case {"name": str(name), "version": str(version), "taps": [*taps]} if all(isinstance(tap, str) for tap in taps):
            dtypes, logits = data.get("dtypes", {}), data.get("logits", {})
            fused, tie_rule = data.get("fused", False), data.get("tie_rule", False)
            quantised = data.get("quantised", {})
        case _:
            raise FileError(f"{path}: name and version must be strings, and taps a list of strings")
    if not is_strings(dtypes) or not set(dtypes.values()) <= {*DTYPES, "fprop"}:
        raise FileError(f"{path}: dtypes must map globs of taps to {', '.join(DTYPES)} or fprop")
    if not is_strings(quantised) or not set(quantised.values()) <= set(QUANTISATIONS):
        raise FileError(f"{path}: quantised must map globs of taps to {', '.join(QUANTISATIONS)}")
    globs = (*taps, *dtypes, *quantised)
    if len(globs) > MAX_GLOBS or max(map(len, globs), default=0) > MAX_GLOB:
        raise FileError(f"{path}: at most {MAX_GLOBS} globs of taps, of at most {MAX_GLOB} characters each")
    if told := unknown_tap(globs):
        raise FileError(f"{path}: {told}")
    if not (isinstance(fused, bool) and isinstance(tie_rule, bool)):
        raise FileError(f"{path}: fused and tie_rule must be true or false")
    return CandidateInfo(
        name=one_line(name),
        version=one_line(version),
        taps=tuple(taps),
        dtypes=dtypes,
        fused=fused,
        tie_rule=tie_rule,
        logits=_read_form(path, logits),
        quantised=quantised,
    )


def unknown_tap(globs: Iterable[str]) -> str:
    """Return in words the first glob that matches no tap of any model, an empty string where each matches one."""
    for pattern in sorted({*globs} - _TAPS):
        if not select_taps(_TAPS, [pattern]):
            return unknown("tap", pattern, [spec.name for spec in tap_specs()])
    return ""


def _read_form(path: Path, data: Any) -> LogitForm:
    """Return the form in which logits are shown; what is not told is that of all logits."""
    kinds, positions = (get_args(get_type_hints(LogitForm)[name]) for name in ("kind", "positions"))
    if not (isinstance(data, dict) and set(data) <= {"kind", "positions", "top"}):
        raise FileError(f"{path}: logits must be an object of kind, positions and top, or of some of them")
    form = LogitForm(**data)
    if form.kind not in kinds or form.positions not in positions:
        raise FileError(f"{path}: logits: kind is one of {', '.join(kinds)}, positions of {', '.join(positions)}")
    if form.top is not None and not (form.kind == "log_probabilities" and type(form.top) is int and form.top > 0):
        raise FileError(f"{path}: logits: top is a positive number, of log_probabilities")
    return form


def is_strings(value: Any) -> bool:
    """Return whether a value is an object of strings."""
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def one_line(text: str) -> str:
    """Return a text as it may appear in a message: printable, on one line, and short."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"
