"""`python -m tests.fault_detection`: how good the harness is, into RATES.md, rates.json and the power table.

Fails when a fault survives, an honest run fails, or a rate falls below the committed one or is measured no longer.
Finished steps are kept on disk until all is published: a session that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys

from grok_conformance.harness.diagnosis.power import POWER_FILE
from grok_conformance.harness.formats.files import write_json
from tests.fault_detection import session, summary
from tests.fault_detection.honest.runs import PAGE as WAYS
from tests.fault_detection.honest.runs import misjudged, page
from tests.fault_detection.kept_steps import forget
from tests.harness.honest_port import golden
from tests.written_block import README, write_block


def main() -> int:
    """Run the session and write what it found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection", description=__doc__)
    parser.add_argument("--power-only", action="store_true", help="write the power table alone")
    parser.add_argument(
        "--honest-runs", type=int, default=session.NUM_HONEST_RUNS, metavar="N", help="0: keep the committed rates"
    )
    options = parser.parse_args()
    table = session.power_table()
    write_json(POWER_FILE, {"format": 1, "suite": golden().manifest.suite, "power": table})
    if options.power_only:
        return 0
    committed = json.loads(summary.RATES.read_text()) if summary.RATES.exists() else {}
    results = summary.with_honest(session.run(num_honest_runs=options.honest_runs), committed)
    told = session.ways() if options.honest_runs else []
    wrong = [*summary.failures(results, table, committed), *misjudged(told)]
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        foreign = committed.get("foreign_plans", [])  # measured by a command of its own
        write_json(summary.RATES, {**summary.as_json(results, table), "foreign_plans": foreign})
        summary.PAGE.write_text(
            summary.as_markdown(results, table) + summary.of_other_commands(summary.PAGE.read_text())
        )
        if told:
            WAYS.write_text(page(told))
        if results.honest:
            write_block(README, summary.README_BEGIN, summary.README_END, summary.readme_block(results))
        forget()
    print(f"{len(results.oracle) + len(results.port)} trials, {len(wrong)} failures")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
