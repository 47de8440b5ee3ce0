"""Which share of a run one machine takes, as `--shard I/N` asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Which of how many shards: `number` from 1 to `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.number}/{self.count}"
