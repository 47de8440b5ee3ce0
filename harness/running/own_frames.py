"""What of a traceback is a candidate's own: where it failed, without the way through the harness."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

HARNESS = (Path(__file__).resolve().parents[1], Path(importlib.__file__).resolve().parent)
"""The harness, and what Python imports a candidate by."""

MAX_PLACES = 3


def place_of(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return the last places of a traceback in the candidate's own files, innermost first; of an engine's without.

    Where only the harness was at work, which says what is wrong in its message, there is none.
    """
    others = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"))
    foreign = [frame for frame in frames if not is_harness(frame)]
    own = [frame for frame in foreign if not any(part in str(Path(frame.filename).resolve()) for part in others)]
    places = [f"{Path(one.filename).name}:{one.lineno} in {one.name}" for one in own or foreign[-1:]]
    return f" ({', called at '.join(reversed(places[-MAX_PLACES:]))})" if places else ""


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an error, and of those that led to it, from where the candidate was called."""
    told = traceback.TracebackException.from_exception(error)
    within: list[traceback.TracebackException | None] = [told]
    while within:
        each = within.pop()
        if each is not None:
            kept = [frame for frame in each.stack if not is_harness(frame)]
            each.stack = traceback.StackSummary.from_list(kept)
            within += [each.__cause__, each.__context__]
    text = "".join(told.format())
    return text if told.stack else text.replace("Traceback (most recent call last):\n", "", 1)


def is_harness(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame is one of `HARNESS`."""
    return frame.filename.startswith("<frozen") or any(
        Path(frame.filename).resolve().is_relative_to(each) for each in HARNESS
    )
