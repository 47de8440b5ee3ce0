"""What the table of kills is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Patches = Mapping[tuple[Any, str], Any]
"""What stands in the place of which attribute."""


@dataclass(frozen=True)
class Kill:
    """A property and a fault that it must see; `traced` where JAX has to compile the broken implementation again."""

    law: Callable[[], None]
    fault: str
    patches: Patches
    traced: bool
