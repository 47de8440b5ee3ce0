"""Serving requests: the model on its devices, and the queue whose requests enter and leave the slots (SPEC §5, §6)."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from grok_conformance.reference import checkpoint, steps
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.inference import check_tokens
from grok_conformance.reference.parameters import Params
from grok_conformance.reference.partitioning import check_mesh, parameter_shardings
from grok_conformance.reference.sampling import SampleSettings
from grok_conformance.reference.steps import Slots

MIN_TEMPERATURE = 1e-6
"""Below it, logits divided by the temperature would come near those of excluded tokens."""


@dataclass(frozen=True, eq=False)
class ModelRunner:
    """The model on its devices, and what it does to a batch of slots. Every step takes the slots and gives new ones.

    Parameters may be host or device arrays; on a mesh they are placed by the partition rules (SPEC §7).
    Raises ValueError for a mesh that does not fit the sizes.
    """

    config: LanguageModelConfig
    params: Params
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        """Place the parameters."""
        if self.mesh is not None:
            check_mesh(self.config.model, self.mesh)
        shardings = None if self.mesh is None else parameter_shardings(self.params, self.mesh)
        object.__setattr__(self, "params", jax.device_put(self.params, shardings))

    @classmethod
    def load(
        cls,
        directory: Path | str,
        config: LanguageModelConfig,
        mesh: Mesh | None = None,
        *,
        quantize: int | None = None,
    ) -> ModelRunner:
        """Return the model of a published checkpoint (SPEC §8); `quantize` float weights in so many groups.

        Raises ValueError for a mesh that does not fit, before anything is read, and as `checkpoint.load` does.
        """
        if mesh is not None:
            check_mesh(config.model, mesh)
        return cls(config, checkpoint.load(directory, config, mesh, quantize=quantize), mesh)

    def empty_slots(self, num_slots: int) -> Slots:
        """Return inactive slots with empty caches of `sequence_len`."""
        return self._on_mesh(steps.empty_slots, num_slots=num_slots)

    def prefill(
        self, slots: Slots, prompt: np.ndarray, length: int, rng: jax.Array, settings: SampleSettings, i: int
    ) -> Slots:
        """Run a prompt int32 [t], padded from `length` on, and give slot `i` its cache and its first token.

        `rng` is PRNGKey(seed), `settings` have one row; the program is compiled once per t. Uses `slots` up.
        """
        return self._on_mesh(steps.prefill, self.params, slots, prompt, np.int32(length), rng, settings, np.int32(i))

    def decode(self, slots: Slots) -> Slots:
        """Run the last token of every slot and draw the next. Uses `slots` up.

        Published behaviour, kept (SPEC §5, §9): inactive slots run too, at position 0, and end with step 1.
        """
        return self._on_mesh(steps.decode, self.params, slots)

    def release(self, slots: Slots, i: int) -> Slots:
        """Return the slots with slot `i` inactive. Uses `slots` up."""
        return self._on_mesh(steps.release, slots, np.int32(i))

    def _on_mesh(self, program: Callable[..., Slots], *arguments: Any, **sizes: int) -> Slots:
        with nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
            return program(*arguments, config=self.config, **sizes)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt of token ids, how to continue it, and by at most how many tokens (SPEC §6).

    Raises ValueError for an empty prompt and for values out of range.
    """

    prompt: Sequence[int]
    max_len: int
    temperature: float = 1.0
    nucleus_p: float = 1.0
    rng_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if not len(self.prompt):
            raise ValueError("the prompt is empty: give at least one token")
        if self.max_len < 1:
            raise ValueError(f"max_len {self.max_len}: ask for at least one token")
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: give 0 (greedy), or a number from {MIN_TEMPERATURE} on")
        if not 0 <= self.nucleus_p <= 1:
            raise ValueError(f"nucleus_p {self.nucleus_p}: give a probability from 0 to 1")
        if not 0 <= self.rng_seed < 2**32:
            raise ValueError(f"rng_seed {self.rng_seed}: give an integer from 0 to {2**32 - 1}")


class SampledToken(NamedTuple):
    """One token of the answer to a request, counted in the order in which they came, and whether it is the last one."""

    request: int
    token_id: int
    prob: float
    last: bool


@dataclass(frozen=True, eq=False)
class InferenceRunner:
    """Serves requests through the slots of a batch; prompts are padded to the next of `pad_sizes` (SPEC §6).

    Raises ValueError without slots, without sizes, or with sizes that do not ascend from 1 to at most `sequence_len`.
    """

    runner: ModelRunner
    num_slots: int
    pad_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse slots and sizes that cannot serve."""
        if self.num_slots < 1:
            raise ValueError(f"{self.num_slots} slots serve no request: give at least one")
        bounded = (0, *self.pad_sizes, self.runner.config.sequence_len + 1)
        if not self.pad_sizes or any(low >= high for low, high in itertools.pairwise(bounded)):
            raise ValueError(
                f"pad_sizes {self.pad_sizes} must ascend and lie in 1..sequence_len {self.runner.config.sequence_len}"
            )

    def bucket(self, length: int) -> int:
        """Return the size to which a prompt of this length is padded, or cut."""
        return self.pad_sizes[min(bisect.bisect_left(self.pad_sizes, length), len(self.pad_sizes) - 1)]

    def compile(self, requests: Iterable[Request]) -> None:
        """Compile what these requests will need, so that a run after it is not held up."""
        slots = self.runner.empty_slots(self.num_slots)
        for request in {self.bucket(len(request.prompt)): request for request in requests}.values():
            slots = self._admit(slots, request, 0)
        jax.block_until_ready(self.runner.release(self.runner.decode(slots), 0))

    def run(self, requests: Iterable[Request]) -> Iterator[SampledToken]:
        """Yield the tokens of all requests as they are drawn.

        Requests are taken as slots become free, the last slot first, and leave theirs after `max_len` tokens, after
        `eos_token`, which is yielded too, or when its cache is full. What a request draws does not depend on the
        others. A prompt longer than the largest of `pad_sizes` keeps its last tokens.
        Published behaviour, mended (SPEC §6): its length is cut with it.
        Raises ValueError, when its turn comes, for a request with a token outside the vocabulary.
        """
        config = self.runner.config
        slots = self.runner.empty_slots(self.num_slots)
        waiting = enumerate(requests)
        free = list(range(self.num_slots))
        running: dict[int, tuple[int, int]] = {}  # slot: request, tokens it may still draw
        while True:
            drawn = []
            while free and (admitted := next(waiting, None)) is not None:
                number, request = admitted
                i = free.pop()
                slots = self._admit(slots, request, i)
                running[i] = number, min(request.max_len, self._room(request))
                drawn.append(i)
            if not drawn and running:
                slots = self.runner.decode(slots)
                drawn = list(running)
            if not drawn:
                return
            token_ids, probs = np.asarray(slots.last_output.token_id), np.asarray(slots.last_output.prob)  # [b, 1]
            for i in drawn:
                number, remaining = running[i]
                token_id = int(token_ids[i, 0])
                last = remaining == 1 or token_id == config.eos_token
                running[i] = number, remaining - 1
                if last:
                    del running[i]
                    free.append(i)
                    slots = self.runner.release(slots, i)
                yield SampledToken(number, token_id, float(probs[i, 0]), last)

    def _admit(self, slots: Slots, request: Request, i: int) -> Slots:
        check_tokens(self.runner.config, np.array([request.prompt]))
        size = self.bucket(len(request.prompt))
        settings = SampleSettings(
            temperature=np.array([request.temperature], np.float32),
            nucleus_p=np.array([request.nucleus_p], np.float32),
            mask=np.ones((1, self.runner.config.vocab_size), bool),
            active=np.ones(1, bool),
        )
        prompt = pad_to_size(np.array(request.prompt, np.int32), size)
        rng = jax.random.PRNGKey(request.rng_seed)
        return self.runner.prefill(slots, prompt, min(len(request.prompt), size), rng, settings, i)

    def _room(self, request: Request) -> int:
        """Return how many tokens fit behind the prompt: all of them but the last are written to the cache."""
        length = min(len(request.prompt), self.pad_sizes[-1])
        return self.runner.config.sequence_len - length + 1


def pad_to_size(x: np.ndarray, size: int) -> np.ndarray:
    """Return tokens [t] padded on the right with 0 to `size`, or the last `size` of them (SPEC §6)."""
    kept = x[-size:]
    return np.pad(kept, (0, size - len(kept)))
