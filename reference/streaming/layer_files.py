"""The files of a layer: read ahead, lent while the layer is computed, and given back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future

from grok_conformance.reference.streaming.files import Stream
from grok_conformance.reference.streaming.processes import own_experts
from grok_conformance.reference.streaming.reading import Loan

MANY_PAIRS = 4
"""Pairs of token and expert per expert from which all experts are read before the router has chosen: few are idle."""


class LayerFiles:
    """The weights of one layer after the other, requested far enough ahead that the disk is never idle."""

    def __init__(self, stream: Stream, num_tokens: int, first_layer: int) -> None:
        """Request the first layer."""
        c = stream.config.model
        self.stream = stream
        self.pending: dict[tuple[int, int | None], Future[Loan]] = {}
        few = num_tokens * c.num_selected_experts < MANY_PAIRS * c.num_experts
        self.expected = [] if c.dense or few else own_experts(range(c.num_experts))
        self.requested = first_layer - 1
        self.request(first_layer)

    def request(self, layer: int) -> None:
        """Read a layer up to its experts, and these too if most of them will have tokens."""
        if self.requested < layer < self.stream.config.model.num_layers:
            self.requested = layer
            self.pending[layer, None] = self.stream.reader.request(self.stream.layer(layer))
            self.request_experts(layer, self.expected)

    def request_experts(self, layer: int, experts: Collection[int]) -> None:
        """Read those experts of a layer that are not requested yet."""
        for e in experts:
            if (layer, e) not in self.pending:
                self.pending[layer, e] = self.stream.reader.request(self.stream.expert(layer, e))

    def before_experts(self, layer: int) -> Loan:
        """Return a layer's weights but for the experts'."""
        self.request(layer)
        if self.expected:
            self.request(layer + 1)
        return self.pending.pop((layer, None)).result()

    def experts(self, layer: int, chosen: Sequence[int]) -> dict[int, Future[Loan]]:
        """Return the weights of the chosen experts; what was read in vain is given back."""
        self.request_experts(layer, chosen)
        self.request(layer + 1)
        futures = {e: self.pending.pop((layer, e)) for e in chosen}
        for e in self.expected:
            if (layer, e) in self.pending:
                drop(self.pending.pop((layer, e)))
        return futures

    def close(self) -> None:
        """Give back what is requested and not used."""
        for future in self.pending.values():
            drop(future)


def drop(future: Future[Loan]) -> None:
    """Give back what a request reads, or will read, unused."""
    if not future.cancel():
        future.add_done_callback(lambda done: None if done.exception() else done.result().give_back())
