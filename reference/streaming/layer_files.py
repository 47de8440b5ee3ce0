"""The files of a layer: read ahead, lent until they are copied or multiplied, and given back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from grok_conformance.reference.experts import ExpertWeights
from grok_conformance.reference.streaming.files import Stream, layer_params
from grok_conformance.reference.streaming.pieces import Piece
from grok_conformance.reference.streaming.processes import own_experts
from grok_conformance.reference.streaming.reading import Loan
from grok_conformance.reference.streaming.tasks import Rows

MANY_PAIRS = 4
"""Pairs of token and expert per expert from which all experts are read before the router has chosen: few are idle."""

Params = dict[str, dict[str, Any]]


class LayerFiles:
    """The weights of one layer after the other, requested far enough ahead that the disk is never idle."""

    def __init__(self, stream: Stream, num_tokens: int, first_layer: int) -> None:
        """Request the first layer."""
        c = stream.config.model
        self.stream = stream
        self.pending: dict[int, Future[Loan]] = {}
        self.pending_experts: dict[tuple[int, int], ExpertWeights] = {}
        few = num_tokens * c.num_selected_experts < MANY_PAIRS * c.num_experts
        self.expected = [] if c.dense or few else own_experts(range(c.num_experts))
        self.requested = first_layer - 1
        self.request(first_layer)

    def request(self, layer: int) -> None:
        """Read a layer up to its experts, and these too if most of them will have tokens."""
        if self.requested < layer < self.stream.config.model.num_layers:
            self.requested = layer
            self.pending[layer] = self.stream.reader.request(self.stream.layer(layer))
            self.request_experts(layer, self.expected)

    def request_experts(self, layer: int, experts: Collection[int]) -> None:
        """Read those experts of a layer that are not requested yet."""
        for e in experts:
            if (layer, e) not in self.pending_experts:
                matrices = (map(self._rows, pieces) for pieces in self.stream.expert(layer, e))
                self.pending_experts[layer, e] = ExpertWeights(*map(list, matrices))

    @contextmanager
    def before_experts(self, layer: int) -> Iterator[Params]:
        """Lend a layer's weights but for the experts'; they are overwritten after the block."""
        self.request(layer)
        self.request(layer + 1)  # read while this layer's attention is computed, which its experts must wait for
        with self.pending.pop(layer).result() as arrays:
            yield layer_params(self.stream.leaves(layer), arrays)

    def experts(self, layer: int, chosen: Sequence[int]) -> dict[int, ExpertWeights]:
        """Return the matrices of the chosen experts, each a list of `Rows`; what was read in vain is given back."""
        self.request_experts(layer, chosen)
        taken = {e: self.pending_experts.pop((layer, e)) for e in chosen}
        for e in self.expected:
            if (layer, e) in self.pending_experts:
                drop_expert(self.pending_experts.pop((layer, e)))
        return taken

    def close(self) -> None:
        """Give back what is requested and not used."""
        for loan in self.pending.values():
            drop(loan)
        for matrices in self.pending_experts.values():
            drop_expert(matrices)

    def _rows(self, piece: Piece) -> Rows:
        return Rows(piece.start, piece.stop, self.stream.reader.request(piece.regions))


def drop_expert(matrices: ExpertWeights) -> None:
    """Give back all rows of an expert unused."""
    for matrix in matrices:
        for rows in matrix:
            drop(rows.loan)


def drop(future: Future[Loan]) -> None:
    """Give back what a request reads, or will read, unused."""
    if not future.cancel():
        future.add_done_callback(lambda done: None if done.exception() else done.result().give_back())
