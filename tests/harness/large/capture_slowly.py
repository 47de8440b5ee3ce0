"""A capture in a process of its own that lingers before and after each file it writes, so that it can be killed there.

`python -m tests.harness.large.capture_slowly SECONDS --config … --checkpoint … --out …`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.large import store


def slowly(write: Callable[[Path, Any], None], seconds: float) -> Callable[[Path, Any], None]:
    def wait_and_write(path: Path, value: Any) -> None:
        time.sleep(seconds)
        write(path, value)
        time.sleep(seconds)

    return wait_and_write


if __name__ == "__main__":
    for name in ("write_tensors", "write_json"):
        setattr(store, name, slowly(getattr(store, name), float(sys.argv[1])))
    sys.exit(main(["capture", *sys.argv[2:]]))
