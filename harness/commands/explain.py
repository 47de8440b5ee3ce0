"""`python -m grok_conformance explain`: what a name means, told from the tables."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterator

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.commands.asked_names import all_names, explain_asked
from grok_conformance.harness.commands.glossary import LEVELS, all_words, as_known, meaning_of
from grok_conformance.harness.contract.taps import GOLDEN, GOLDEN_DIR, TapSpec, tap_specs
from grok_conformance.harness.faults import ALL_FAULTS, Fault, faults_at
from grok_conformance.harness.formats.files import FileError, read_json
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.row import Operation

WIDTH = 13

MAX_CHOICES = 4
"""Choices at one point that are told of many: of partial sums there are hundreds."""

TAP = re.compile(r"^(call\d+/)?(layers\.(\d+|\*)\.)?")
"""What stands before the name of an operation in that of a tap."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a fault, an operation, a verdict, a level, a case, a preset or a word of the reports",
    )


def execute(options: argparse.Namespace) -> int:
    """Explain one name; raises FileError for a name that nothing has."""
    sys.stdout.writelines(f"{told}\n" for told in explain(TAP.sub("", options.name)))
    return PASS


def explain(name: str) -> Iterator[str]:
    """Yield the lines that explain a verdict, an operation, a fault, a preset, a case, a level or a word."""
    operations = {operation.name: operation for operation in GROK_1.operations}
    name = as_known(name, (*operations, *ALL_FAULTS, *known_words()))
    if name in operations:
        specs = {spec.operation: spec for spec in tap_specs()}
        yield from explain_operation(operations[name], specs[operations[name].tap])
    elif name in ALL_FAULTS:
        yield from explain_fault(ALL_FAULTS[name])
    elif meaning_of(name):
        yield f"{name}: a word of the reports"
        yield line("means", meaning_of(name))
    elif asked := list(explain_asked(name)):
        (head, kind), *rows = asked
        yield f"{head}, {kind}"
        yield from (line(word, text) for word, text in rows)
    elif name not in LEVELS:
        yield from explain_verdict(name, (*operations, *ALL_FAULTS))
    if name in LEVELS:
        yield f"{name}: a level"
        yield line("means", LEVELS[name])


def known_words() -> list[str]:
    """Return every name that is neither an operation's nor a fault's: verdicts, levels, words, presets and cases."""
    from grok_conformance.harness.judging.verdict import MEANINGS

    return [*MEANINGS, *LEVELS, *all_words(), *all_names()]


def explain_verdict(name: str, others: Collection[str]) -> Iterator[str]:
    """Yield what a verdict means; raises FileError for a name that is neither one nor among the others."""
    from grok_conformance.harness.judging.verdict import MEANINGS, PASSING

    if name not in MEANINGS:
        known = [*others, *known_words()]
        raise FileError(unknown("fault, operation, verdict, level, case, preset or word", name, known))
    yield f"{name}: a verdict"
    yield line("means", MEANINGS[name])
    yield line("exit status", "0" if name in PASSING else "1")


def explain_fault(fault: Fault) -> Iterator[str]:
    """Yield what the table says of a fault."""
    yield f"{fault.id}: a fault of {fault.kind}" + (", which must not be called one" if fault.harmless else "")
    yield line("is", fault.title)
    yield line("right", fault.explanation)
    yield line("change", fault.remedy)
    yield line("seen at", ", ".join(fault.operations) or "no operation alone")
    yield line("shown by", ", ".join(fault.shown_by))
    yield line("met in", fault.provenance)


def explain_operation(operation: Operation, spec: TapSpec) -> Iterator[str]:
    """Yield what the graph and the contract say of an operation and the tap that it makes."""
    yield f"{operation.name}: an operation (SPEC {operation.section})"
    yield line("gives", spec.meaning)
    yield line("tap", f"{spec.name} [{', '.join(spec.axes)}], {spec.dtype}, shown from level {spec.level}")
    yield line("reads", ", ".join((*operation.inputs, *operation.weights)) or "tokens")
    yield line("compared", read_json(GOLDEN_DIR / "schema" / "taps.json")["compared"][spec.compared])
    yield line("honest runs", validated(spec.operation))
    for fault in faults_at(operation.name):
        yield line("can have", f"{fault.id}: {fault.title}")
    for point in operation.points:
        _, *others = point.choices.values()
        told = others[:MAX_CHOICES] if len(others) > MAX_CHOICES + 1 else others
        yield from (line("may also be", words) for words in told)
        if told != others:
            yield line("", f"and {len(others) - len(told)} more such")


def validated(operation: str) -> str:
    """Return how far honest runs were found to go at an operation, by compute dtype."""
    from grok_conformance.harness.golden.manifest import NOISE

    worst = read_json(GOLDEN / NOISE)["validation"]["worst"][operation]
    found = {dtype: max((float(one["ratio"]), name) for name, one in row.items()) for dtype, row in worst.items()}
    reached = (f"{ratio:.3f} in {dtype} ({statistic})" for dtype, (ratio, statistic) in found.items())
    return f"reach at most this share of what is allowed: {', '.join(reached)}"


def line(word: str, text: str) -> str:
    """Return one line of an explanation."""
    return f"  {word:{WIDTH}}{text}"
