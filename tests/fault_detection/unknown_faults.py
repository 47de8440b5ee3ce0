"""`python -m tests.fault_detection.unknown_faults`: faults that no row of the table knows, and what is said of each.

A fault is an operation, a transformation of the values that an honest port gave there, and a place in the data. It is
put into what the port shows after its honest noise, and flows on. Nothing here knows the table of transformations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import DTYPES, Array, split_tap, tap_name
from grok_conformance.harness.diagnosis.described import described
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED, Diagnosis
from grok_conformance.harness.diagnosis.places import inside, place_of, tokens_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, shown_taps
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import scope_of, walk
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.judging.operations import judge_operations
from grok_conformance.harness.measure.noise import honest_result
from tests.harness.honest_port import INFO, NUM_ELEMENTS, exact_weights, golden_case

CASES = (
    "unequal/prefill/padded_batch",
    "unequal/decode/unequal_lengths",
    "unequal/chunked/two_chunks",
    "realistic/prefill/near_ties",
    "square/decode/unequal_lengths",
    "dense/decode/dense_block",
)
"""Prefills, chunks and decode steps of several sizes, with experts and without."""

PAGE = Path(__file__).parent / "UNKNOWN.md"

HEAD = """# Faults that no row of the table knows

Written by `python -m tests.fault_detection.unknown_faults --write`. A fault is an operation, a change of the values
that an honest port gave there, and a place; every other one is tried in bfloat16. Every operation is checked as
published; `--whole` also looks for other ways and for known faults, as a run does. *Located*:
its operation fails and no other. *Named*: what the failing values are said to be is what was done to them. *Placed*:
where they are said to be holds nearly all values that were changed, and nearly no token without one. **False**:
something is said that is not so. The list is that of `tests/fault_detection/unknown_faults.py`, written together with
the diagnosis: it shows what is told, and is no estimate of how faults from elsewhere fare.

"""

ALLOWED = 0.1
"""Share of the changed values that a place may miss, and of its tokens that may be clean, for it to be right."""


@dataclass(frozen=True)
class Moment:
    """What a fault sees when it strikes: the tap, the call, and all taps of the call so far."""

    call: int
    tap: str
    scope: Scope
    lengths: Array
    values: Mapping[str, Array]
    earlier: Mapping[tuple[int, str], Array]

    def beside(self, operation: str) -> Array:
        """Return another tap of the same layer."""
        return self.values[tap_name(split_tap(self.tap)[0], operation)]


Change = Callable[[Array, Moment], Array]
"""Gives the faulty values [tap] of right ones."""

Where = Callable[[Array, Moment], Array]
"""Gives where a fault strikes, bool that broadcasts to the tap."""


@dataclass(frozen=True)
class UnknownFault:
    """A fault that no row knows; `says` are words of which any tells it."""

    operation: str
    change: str
    place: str
    says: tuple[str, ...]
    dtype: str

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.operation}: {self.change}" + (f", {self.place}" if self.place else "")


def along(axis: int) -> Callable[[Callable[[Array], Array]], Change]:
    """Return a change of a tap with an axis moved to the end."""
    return lambda change: lambda x, _: np.moveaxis(change(np.moveaxis(x, axis, -1)), -1, axis)


CHANGES: Mapping[str, tuple[Change, tuple[str, ...]]] = {
    "halved": (lambda x, _: x / 2, ("times 0.5",)),
    "times 1.7": (lambda x, _: x * 1.7, ("times 1.7",)),
    "negated": (lambda x, _: -x, ("opposite sign",)),
    "zero": (lambda x, _: 0 * x, ("are zero", "as zero", "all taken as")),
    "absolute value": (lambda x, _: np.abs(x), ("absolute values", "another function", "with the opposite sign")),
    "negatives as zero": (lambda x, _: np.maximum(x, 0), ("negative ones as zero", "are zero", "as zero")),
    "features shifted": (lambda x, _: np.roll(x, 1, -1), ("shifted by",)),
    "features reversed": (lambda x, _: x[..., ::-1], ("reverse order",)),
    "heads shifted": (lambda x, _: np.roll(x, 1, 2), ("shifted by", "values of")),
    "heads 0 and 1 exchanged": (lambda x, _: x[:, :, [1, 0, *range(2, x.shape[2])]], ("exchanged", "right for")),
    "halves interleaved": (
        lambda x, _: x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape),
        ("laid out",),
    ),
    "of the token before": (lambda x, _: np.concatenate([x[:, :1], x[:, :-1]], 1), ("shifted by", "right for token")),
    "of row 0": (lambda x, _: np.broadcast_to(x[:1], x.shape), ("for all rows", "right for row")),
    "rounded to bf16": (lambda x, _: round_to(x, "bfloat16"), ("bfloat16",)),
    "rounded to fp16": (lambda x, _: round_to(x, "float16"), ("float16",)),
    "cut off at 1": (lambda x, _: np.clip(x, -1, 1), ("cut off at ±1", "another function")),
    "plus 0.5": (lambda x, _: x + 0.5, ("plus 0.5",)),
    "sine of it": (lambda x, _: np.sin(x), ("another function",)),
    "input returned": (lambda _, m: m.beside("attention.query"), ("values of attention.query",)),
    "stale": (lambda x, m: m.earlier.get((m.call - 1, m.tap), x), ("stale",)),
    "of layer 0": (lambda x, m: m.values.get(tap_name(0, split_tap(m.tap)[1]), x), ("values of layer 0",)),
    "residual doubled": (lambda x, m: x + m.beside("attention.residual"), ("attention.residual added",)),
    "a factor for every token": (
        lambda x, _: x * (1.1 + 0.3 * np.sin(np.arange(x.shape[1])))[None, :, *[None] * (x.ndim - 2)],
        ("for every token",),
    ),
    "random noise": (lambda x, m: x + 0.1 * np.random.default_rng(m.call).standard_normal(x.shape), ()),
    "a product with its neighbour": (lambda x, _: x * np.roll(x, 1, -1), ()),
}
"""Changes by name, with words that tell them; where there are none nothing but the place can be told."""


def last_row(x: Array, _: Moment) -> Array:
    """Return the last row."""
    return np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == len(x) - 1


def last_token(x: Array, m: Moment) -> Array:
    """Return the last token of each row."""
    found: Array = np.arange(x.shape[1]) == m.lengths[:, None] - 1
    return found.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def experts(choose: Callable[[Array], Array]) -> Where:
    """Return the values of some experts."""

    def where(x: Array, m: Moment) -> Array:
        index = m.beside("moe.expert_index")
        found = choose(index)
        return found.reshape(*index.shape, *[1] * (x.ndim - 3))

    return where


def sent_to(expert: int) -> Where:
    """Return the tokens sent to an expert."""

    def where(x: Array, m: Moment) -> Array:
        name = tap_name(split_tap(m.tap)[0], "moe.expert_index")
        return (m.values[name] == expert).any(-1)[..., None] if name in m.values else np.zeros(x.shape, bool)

    return where


PLACES: Mapping[str, Where] = {
    "": lambda x, _: np.ones_like(x, bool),
    "decode steps": lambda _x, m: np.array(m.scope.tokens.shape[1] == 1 and m.call > 0),
    "after the first call": lambda _x, m: np.array(m.call > 0),
    "layer 1": lambda _x, m: np.array(split_tap(m.tap)[0] == 1),
    "the last row": last_row,
    "the last token": last_token,
    "positions from 4": lambda x, m: (m.scope.steps[:, None] + np.arange(x.shape[1]) >= 4).reshape(
        *x.shape[:2], *[1] * (x.ndim - 2)
    ),
    "channels 0–19": lambda x, _: np.arange(x.shape[-1]) < 20,
    "the second half": lambda x, _: np.arange(x.shape[-1]) * 2 // x.shape[-1] == 1,
    "odd channels": lambda x, _: np.arange(x.shape[-1]) % 2 == 1,
    "head 2": lambda x, _: (np.arange(x.shape[2]) == 2)[:, None],
    "expert 3": experts(lambda index: index == 3),
    "the second choice": experts(lambda index: np.broadcast_to(np.arange(index.shape[-1]) == 1, index.shape)),
    "tokens of expert 2": sent_to(2),
}
"""Where faults strike, by name."""

FAMILY: tuple[tuple[str, str, str], ...] = (
    ("embedding", "times 1.7", ""),
    ("embedding", "of row 0", ""),
    ("attention.norm", "halved", "channels 0–19"),
    ("attention.norm", "a factor for every token", ""),
    ("attention.norm", "features shifted", "the last row"),
    ("attention.query", "negated", "head 2"),
    ("attention.query", "halves interleaved", ""),
    ("attention.query", "heads 0 and 1 exchanged", ""),
    ("attention.key", "zero", "odd channels"),
    ("attention.value", "heads shifted", "after the first call"),
    ("attention.query_rotated", "input returned", "decode steps"),
    ("attention.query_rotated", "features reversed", ""),
    ("attention.key_rotated", "negated", "the second half"),
    ("attention.key_rotated", "halved", "positions from 4"),
    ("attention.logits", "cut off at 1", ""),
    ("attention.logits", "rounded to bf16", ""),
    ("attention.weights", "times 1.7", "decode steps"),
    ("attention.heads", "heads shifted", ""),
    ("attention.heads", "stale", "decode steps"),
    ("attention.heads", "random noise", "head 2"),
    ("attention.output", "of the token before", ""),
    ("attention.output", "random noise", "channels 0–19"),
    ("attention.output", "a product with its neighbour", "the last row"),
    ("attention.output_norm", "negatives as zero", ""),
    ("attention.residual", "plus 0.5", "the last token"),
    ("attention.residual", "zero", "layer 1"),
    ("moe.norm", "sine of it", ""),
    ("moe.norm", "random noise", "positions from 4"),
    ("router.logits", "halved", "the last token"),
    ("router.logits", "rounded to fp16", ""),
    ("router.logits", "features reversed", "layer 1"),
    ("router.probabilities", "features shifted", "decode steps"),
    ("moe.expert_gate", "halved", "expert 3"),
    ("moe.expert_gate", "times 1.7", "the second choice"),
    ("moe.expert_activation", "negated", "expert 3"),
    ("moe.expert_activation", "of the token before", ""),
    ("moe.expert_up", "features shifted", "expert 3"),
    ("moe.expert_up", "absolute value", ""),
    ("moe.expert_hidden", "cut off at 1", ""),
    ("moe.expert_hidden", "zero", "the second half"),
    ("moe.expert_hidden", "random noise", "expert 3"),
    ("moe.expert_output", "times 1.7", "the second choice"),
    ("moe.expert_output", "features reversed", "expert 3"),
    ("moe.output", "zero", "tokens of expert 2"),
    ("moe.output", "random noise", "tokens of expert 2"),
    ("moe.output", "plus 0.5", ""),
    ("moe.output_norm", "of layer 0", ""),
    ("moe.output_norm", "halved", "the last row"),
    ("output", "residual doubled", ""),
    ("output", "a product with its neighbour", "decode steps"),
    ("dense.hidden", "absolute value", ""),
    ("dense.up", "negated", "odd channels"),
    ("final_norm", "times 1.7", "the last token"),
    ("final_norm", "features shifted", ""),
    ("logits", "negated", "decode steps"),
    ("logits", "of row 0", ""),
    ("logits", "random noise", "after the first call"),
    ("logits", "halved", "odd channels"),
)
"""Operation, change and place of every fault."""

DTYPES_TRIED = ("float32", "bfloat16")


def family() -> list[UnknownFault]:
    """Return every fault, one after the other in another compute dtype."""
    return [
        UnknownFault(operation, change, place, CHANGES[change][1], dtype)
        for i, (operation, change, place) in enumerate(FAMILY)
        for dtype in [DTYPES_TRIED[i % 2]]
    ]


@dataclass(frozen=True)
class Outcome:
    """What the harness said of one fault."""

    fault: UnknownFault
    failing: frozenset[str]
    diagnosis: Diagnosis | None
    place_is_right: bool

    @property
    def located(self) -> bool:
        """Whether its operation fails and no other."""
        return self.failing == {self.fault.operation}

    @property
    def text(self) -> str:
        """What the values are said to resemble."""
        return f"are {self.diagnosis.resembles}" if self.diagnosis is not None and self.diagnosis.resembles else ""

    @property
    def named(self) -> bool:
        """Whether it is told what the values are right for."""
        return bool(self.text) and any(words in self.text for words in self.fault.says)

    @property
    def placed(self) -> bool:
        """Whether it is told where in the data it is, and it is there."""
        return self.diagnosis is not None and bool(self.diagnosis.place) and self.place_is_right

    @property
    def falsely_named(self) -> bool:
        """Whether something is said that is not so: a known fault, another transformation, another place."""
        if self.diagnosis is None:
            return False
        known = bool(self.diagnosis.faults)
        other = bool(self.text) and not self.named
        elsewhere = bool(self.diagnosis.place) and not self.placed
        return known or other or elsewhere


Truth = dict[str, Array]
"""Where the values of a tap were changed, by `call0/TAP`."""


def faulty_taps(case_id: str, fault: UnknownFault, seed: int) -> tuple[dict[str, Array], Truth]:
    """Return what an honest port shows that has a fault in one place of one operation, and where it is changed."""
    preset, case = golden_case(case_id)
    weights = exact_weights(preset.name, case.fprop_dtype)
    kept = GROK_1.recorded_dtypes(weights.config, preset.weights)
    random = np.random.default_rng(seed)
    change, where = CHANGES[fault.change][0], PLACES[fault.place]
    made: dict[tuple[int, str], Array] = {}
    values: dict[str, Array] = {}
    truth: Truth = {}
    call = 0

    def compute(tap: str, exact: Exact) -> Array:
        nonlocal call, values
        if tap == "embedding" and values:
            call, values = call + 1, {}
        dtype = kept[split_tap(tap)[1]]
        shown = honest_result(exact, dtype, random)
        if split_tap(tap)[1] == fault.operation:
            moment = Moment(call, tap, scope_of(preset, case, call), case.calls[call].lengths, values, made)
            other = change(shown, moment)
            if other.shape == shown.shape:
                right, shown = shown, round_to(np.where(where(shown, moment), other, shown), dtype)
                truth[tap_key(call, tap)] = shown != right
        made[call, tap] = values[tap] = shown
        return shown

    walked = walk(preset, case, weights=weights, perturb=compute)
    taps = {tap_key(i, tap): x.astype(DTYPES[kept[split_tap(tap)[1]]]) for i, tap, _, x in walked}
    return taps, truth


def tried(fault: UnknownFault, seed: int = 1, *, whole: bool = False) -> Outcome:
    """Check every operation of a port with a fault, and describe the faulty one; or judge it `whole`, as a run does."""
    exhibits: list[Exhibit] = []
    truths: dict[str, Truth] = {}
    for name in CASES:
        case_id = f"{name}.{fault.dtype}"
        preset, case = golden_case(case_id)
        taps, truths[case_id] = faulty_taps(case_id, fault, seed)
        exhibits.append(exhibit_of(preset, case, INFO, taps, exact_weights(preset.name, case.fprop_dtype)))
    if whole:
        found = judge_operations(exhibits, NUM_ELEMENTS)
        failing, diagnosis = found.failing, found.diagnoses.get(fault.operation)
        exhibits = list(found.exhibits)
    else:
        checked = [each for one in exhibits for each in check_case(one, num_elements=NUM_ELEMENTS)]
        failing = frozenset(each.operation for each in checked if not each.passed)
        diagnosis = described(None, fault.operation, exhibits, [[] for _ in exhibits])
    return Outcome(fault, failing, diagnosis, is_right(shown_taps(fault.operation, exhibits), truths))


def is_right(taps: Sequence[ShownTap], truths: Mapping[str, Truth]) -> bool:
    """Return whether the place that is told holds nearly all values that were changed, and nearly no other token."""
    place = place_of(taps)
    changed, missed, tokens, clean = 0, 0, 0, 0
    for one in taps:
        truth = truths[one.exhibit.case.id].get(tap_key(one.call, one.tap), np.zeros(one.observed.shape, bool))
        struck, told = truth & one.compared, inside(one, place) & one.compared
        changed += int(struck.sum())
        missed += int((struck & ~told).sum())
        number = np.broadcast_to(tokens_of(one), told.shape)
        tokens += len(np.unique(number[told]))
        clean += len(np.unique(number[told])) - len(np.unique(number[told & struck]))
    return missed <= ALLOWED * changed and clean <= ALLOWED * tokens


TABLE_HEAD = ("| fault | dtype | located | named | placed | what is said |", "|---|---|---|---|---|---|")


def line_of(one: Outcome) -> str:
    """Return the line of a fault in the table."""
    marks = " | ".join("yes" if x else "–" for x in (one.located, one.named, one.placed))
    found = one.diagnosis or UNEXPLAINED
    said = " or ".join(found.faults) or "; ".join(filter(None, (found.resembles, found.place))) or "–"
    false = " **false**" if one.falsely_named else ""
    return f"| {one.fault.name} | {one.fault.dtype} | {marks} | {said}{false} |"


def rates(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how many are found, located, named or placed, and falsely named."""
    number = len(outcomes)
    counts = {
        "found": sum(bool(one.failing) for one in outcomes),
        "located": sum(one.located for one in outcomes),
        "named or placed": sum(one.named or one.placed for one in outcomes),
        "something said that is not so": sum(one.falsely_named for one in outcomes),
    }
    return [f"* {name}: {count} of {number}, {count / number:.1%}" for name, count in counts.items()]


def main() -> int:
    """Try the family and print the table; fails where something false is said."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.unknown_faults", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--whole", action="store_true", help="look for other ways and known faults too, as a run does")
    options = parser.parse_args()
    outcomes = []
    print("\n".join(TABLE_HEAD))  # noqa: T201 - a command prints
    for fault in [fault for fault in family() if options.only in fault.name]:
        outcomes.append(tried(fault, options.seed, whole=options.whole))
        print(line_of(outcomes[-1]), flush=True)  # noqa: T201
    print("\n".join(rates(outcomes)))  # noqa: T201
    if options.write:
        PAGE.write_text("\n".join([HEAD + "\n".join(rates(outcomes)), "", *TABLE_HEAD, *map(line_of, outcomes)]) + "\n")
    return 1 if any(one.falsely_named for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
