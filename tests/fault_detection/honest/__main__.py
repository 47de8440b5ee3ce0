"""`python -m tests.fault_detection.honest`: every way of the zoo, judged as a run judges it; status 1 if one is wrong.

`--only GLOB` and `--case GLOB` choose ways and golden cases, `--dtype` one compute dtype, `--json FILE` writes it all.
`--draw SEED` judges fresh weights and tokens instead of the golden cases; `--write` writes the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from grok_conformance.harness.formats.files import plain, write_json
from tests.fault_detection.honest.runs import PAGE, counts, groups_of, line_of, page, tell
from tests.fault_detection.honest.way import matching
from tests.fault_detection.honest.zoo import ZOO


def main(arguments: Sequence[str]) -> int:
    """Judge the ways that are asked for, print a line for each and the counts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.honest")
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--case", default="*", metavar="GLOB")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--draw", type=int, metavar="SEED")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="write what was told into WAYS.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = []
    for name in matching(ZOO, options.only):
        way = ZOO[name]
        for dtype in (options.dtype,) if options.dtype else way.dtypes:
            if dtype in way.dtypes:
                found.append(tell(way, dtype, groups_of(options.case, dtype, options.draw)))
                print(line_of(found[-1]), flush=True)
    print(counts(found))
    if options.json is not None:
        write_json(options.json, plain([asdict(each) for each in found]))
    if options.write:
        PAGE.write_text(page(found))
    return int(not all(each.as_marked for each in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
