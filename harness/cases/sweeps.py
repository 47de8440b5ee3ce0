"""Sweeps: drawn models and a few requests to each, which between them meet most borders and histories in every run.

A rung of the ladder puts one size at one border, so that it says which; a sweep crosses many at once, so that it is
cheap. The oracle judges both. A new request is a row of a sweep, a new model a row of `SWEEPS`.

It is long because `SWEEPS` is one table: what a request crosses is read beside those before it on the same model.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import Call, CallKind, Case, Preset
from grok_conformance.harness.cases.drawn import (
    FPROP_DTYPES,
    NARROW,
    ORIGIN,
    draw_tokens,
    drawn_call,
    random_of,
    stored_id,
)
from grok_conformance.harness.cases.ladder import BORDERS
from grok_conformance.harness.cases.suite import draw_cache, varied
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import Array, LanguageModelConfig

PREFIX = "sweep_"
"""What the name of every sweep's preset begins with."""


@dataclass(frozen=True)
class Ask:
    """One call: its kind, the real length of each row, and of one that truncates the step each row is cut back to."""

    kind: CallKind
    lengths: tuple[int, ...]
    steps: tuple[int, ...] | None = None


STEP = Ask("decode", (1,))


@dataclass(frozen=True)
class Request:
    """One case of a sweep: a new request to the same loaded model, after those above it.

    Its prompt shares the positions `shared` with the sweep's own prompt; `alike` makes all its tokens equal. Of two
    rows that are `equal` the second has the tokens of the first, up to the call where they are `parting`. The caches
    are `filled` up to a step of each row before the first call; tokens are of the `last_ids` of the vocabulary, or the
    prompt `begins` with some.
    """

    name: str
    why: str
    calls: tuple[Ask, ...]
    shared: slice | None = None
    alike: bool = False
    equal: tuple[int, int] | None = None
    parting: int | None = None
    filled: tuple[int, ...] = ()
    last_ids: bool = False
    begins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """One drawn model and the requests to it, in their order; the model is narrow but for what is told here.

    Of a size in `drawn` the seed chooses one of some; `weights` are fields of `Statistics` that are otherwise.
    """

    name: str
    requests: tuple[Request, ...]
    model: dict[str, Any] = field(default_factory=dict)
    drawn: dict[str, tuple[int, ...]] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)


NINE = (127, 63, 31, 15, 1, 64, 32, 16, 9)
"""Prompts that stop at borders: the steps after them go over."""

NINE_STEPS = Ask("decode", (1,) * len(NINE))

SPECIAL = (1, 1, 2, 2, 3, 3)
"""Ids that tokenizers keep for the beginning and the end of a text, and for what they do not know."""

NUM_LAST = 100
"""How many ids are the last ones of a vocabulary."""

NARROW_BORDERS = tuple(border for border in BORDERS if border < 128)  # noqa: PLR2004 - what costs little
"""Widths at borders that a small model may have."""


def short(num_rows: int) -> tuple[Ask, ...]:
    """Return a short prompt of so many rows, and a step."""
    lengths = tuple(1 + 2 * (row + 1) % 5 for row in range(num_rows))
    return Ask("prefill", lengths), Ask("decode", (1,) * num_rows)


def prompt(num_tokens: int) -> tuple[Ask, ...]:
    """Return a prompt of one row, and a step."""
    return Ask("prefill", (num_tokens,)), STEP


SWEEPS = (
    Sweep(
        "long",
        (
            Request(
                "nine_rows",
                "nine rows of unequal lengths, whose steps go over the borders of blocks; decode, extend, decode",
                (
                    Ask("prefill", NINE),
                    *[NINE_STEPS] * 3,
                    Ask("extend", (17, 1, 16, 3, 1, 15, 17, 2, 9)),
                    NINE_STEPS,
                    Ask("extend", (1, 16, 2, 17, 9, 1, 8, 15, 17)),
                    *[NINE_STEPS] * 4,
                ),
            ),
            Request("prompt_257", "a prompt of one token more than whole blocks", prompt(257)),
            Request("prompt_256", "a prompt that fills its blocks, shorter than an earlier one", prompt(256)),
            Request("prompt_255", "a prompt whose steps fill a block and begin another", (*prompt(255), STEP, STEP)),
            Request("prompt_241", "a prompt of one token more than blocks of 24, 40, 48, 60, 80 and 120", prompt(241)),
            Request("prompt_240", "a prompt that fills such blocks, whose steps begin others", (*prompt(240), STEP)),
            Request("prompt_225", "a prompt of one token more than blocks of 56, 112 and 224", prompt(225)),
            Request("prompt_193", "a prompt of one token more than blocks of 96 and 192", prompt(193)),
            Request("prompt_177", "a prompt of one token more than blocks of 88 and 176", prompt(177)),
            Request("prompt_129", "a prompt of one token more than a long block", prompt(129)),
            Request("prompt_128", "a prompt that fills a long block, whose step begins another", prompt(128)),
            Request("prompt_64", "a prompt that fills a block, whose step begins another", prompt(64)),
            Request(
                "chunks",
                "five chunks of unequal lengths that start inside blocks, with steps between them",
                (
                    Ask("prefill", (33,)),
                    Ask("extend", (17,)),
                    STEP,
                    Ask("extend", (65,)),
                    Ask("extend", (33,)),
                    STEP,
                    Ask("extend", (17,)),
                ),
            ),
            Request(
                "alike",
                "equal tokens, in the steps too: all choose the same experts, the others have none",
                (*prompt(65), STEP, STEP),
                alike=True,
            ),
            Request(
                "drafts_taken_back",
                "drafts are written and rejected: the cache is cut back, each row by another number, one to nothing",
                (
                    Ask("prefill", (17, 9)),
                    Ask("extend", (5, 5)),
                    Ask("truncate", (1, 1), steps=(19, 10)),
                    Ask("extend", (5, 5)),
                    Ask("truncate", (3, 2), steps=(16, 14)),
                    Ask("decode", (1, 1)),
                    Ask("truncate", (4, 3), steps=(0, 15)),
                    Ask("decode", (1, 1)),
                ),
            ),
            Request(
                "many_steps",
                "eighteen steps one after the other, in five rows of which two are equal until the tenth",
                (Ask("prefill", (7, 7, 3, 1, 16)), *[Ask("decode", (1,) * 5)] * 18),
                equal=(0, 1),
                parting=10,
            ),
            *(
                Request(
                    f"rows_{'_and_'.join(map(str, lengths))}",
                    "rows whose lengths are those of another request, exchanged",
                    (Ask("prefill", lengths), Ask("extend", (3, 3)), Ask("decode", (1, 1))),
                )
                for lengths in ((9, 5), (5, 9))
            ),
            Request(
                "twins",
                "two equal prompts that go on unequally",
                (Ask("prefill", (9, 9)), Ask("extend", (5, 2)), *[Ask("decode", (1, 1))] * 2),
                equal=(0, 1),
                parting=1,
            ),
            Request(
                "idle_rows",
                "rows that are empty at first or idle in a chunk, beside busy ones",
                (
                    Ask("prefill", (5, 0, 7, 3)),
                    Ask("extend", (0, 2, 3, 0)),
                    Ask("decode", (1,) * 4),
                    Ask("extend", (2, 5, 0, 1)),
                    Ask("decode", (1,) * 4),
                ),
            ),
            Request(
                "chunk_on_given_caches",
                "caches that were filled elsewhere, to which a chunk is added first",
                (Ask("extend", (17, 5, 1)), Ask("decode", (1,) * 3)),
                filled=(40, 3, 130),
            ),
            Request(
                "chunks_at_borders",
                "chunks that start where blocks end: at 16, 32, 64, 128 and 256",
                (Ask("prefill", (16,)), *[Ask("extend", (length,)) for length in (16, 32, 64, 128, 3)]),
            ),
        ),
        # Of few tokens the same sums would be rounded again and again, and their errors add up.
        {"vocab_size": 499, "num_experts": 5},
    ),
    Sweep(
        "prefixes",
        (
            Request("shared", "a prompt that others share", prompt(33), shared=slice(33)),
            Request("shared_but_last", "the same prompt but for its last token", prompt(33), shared=slice(32)),
            Request("shared_but_first", "the same prompt but for its first token", prompt(33), shared=slice(1, 33)),
            Request("shared_block", "the same prompt up to the border of a block", prompt(33), shared=slice(16)),
            Request("shared_in_block", "the same prompt up to the middle of a block", prompt(33), shared=slice(13)),
            Request("beginning", "the beginning of an earlier prompt, alone", prompt(17), shared=slice(17)),
            Request("continued", "an earlier prompt, and as much again", prompt(65), shared=slice(33)),
            Request("special_ids", "ids that tokenizers keep for themselves, each twice", prompt(17), begins=SPECIAL),
        ),
        # What a later layer keeps of a token hangs on those before it. Of two experts both are chosen: where nothing is
        # shown but logits, no other choice could excuse what a wrong prefix does.
        {"num_layers": 2, "vocab_size": 97, "num_experts": 2, "num_selected_experts": 2},
    ),
    Sweep(
        "many_rows",
        tuple(
            Request(f"rows_{num_rows}", "rows that fill a block of a batch, or are one more", short(num_rows))
            for num_rows in (13, 33, 16, 17)  # more than at first, then fewer
        ),
        {"attn_output_multiplier": 0.31},  # another than that of models with the same heads
    ),
    Sweep(
        "both_experts",
        tuple(
            Request(
                f"prompt_{length}",
                "every expert has all tokens: they fill blocks of it, or are one more",
                prompt(length),
            )
            for length in (33, 64, 128, 257)
        ),
        {"num_experts": 2, "num_selected_experts": 2},
    ),
    Sweep(
        "deep",
        (
            Request(
                "layers",
                "twelve layers of sixteen experts, of which most have no token or one",
                (Ask("prefill", (9, 1, 4)), *[Ask("decode", (1, 1, 1))] * 2),
            ),
        ),
        {"num_layers": 12, "num_experts": 16},
        drawn={"emb_size": NARROW_BORDERS},
    ),
    Sweep(
        "below_256",
        (
            Request(
                "contractions",
                "sums over 255 channels and 264 of an expert, 35 heads; activations of many hundreds, whose squares a "
                "float16 does not hold",
                short(4),
            ),
        ),
        {"emb_size": 255, "widening_factor": 1.55, "num_q_heads": 35, "num_kv_heads": 5, "vocab_size": 257},
        weights={name: 400 * getattr(Statistics, name) for name in ("embedding_rms", "attention_update", "moe_update")},
    ),
    Sweep(
        "at_256",
        (
            Request(
                "contractions",
                "sums over 256 channels; router logits beyond 88, whose exponential a float32 does not hold; int8 "
                "values of -128, whose magnitude an int8 does not hold",
                short(6),
            ),
        ),
        {
            "emb_size": 256,
            "widening_factor": 1.5,
            "num_q_heads": 16,
            "num_kv_heads": 4,
            "key_size": 16,
            "vocab_size": 256,
        },
        weights={"router_deviation": 60.0, "least_int8": -128},
    ),
    Sweep(
        "above_1024",
        (Request("contractions", "sums over 1025 channels, and of 320 of an expert", short(7)),),
        {"emb_size": 1025, "widening_factor": 0.46, "key_size": 66, "num_experts": 2, "vocab_size": 129},
    ),
    Sweep(
        "far",
        (
            Request(
                "last_positions",
                "steps over the slots 4096 and 32768 of long caches, and ids beyond 65,536",
                (Ask("decode", (1, 1)), Ask("decode", (1, 1)), Ask("extend", (2, 2))),
                filled=(4095, 32767),
                last_ids=True,
            ),
        ),
        {"vocab_size": 65_664},
    ),
    Sweep(
        "small_scales",
        (Request("contractions", "scales of weights far below 2^-14, the least normal number of float16", short(8)),),
        drawn={"emb_size": NARROW_BORDERS},
        weights={"scales_gain": 2.0**-14},
    ),
)
"""Every sweep, in the order in which they run."""


def sweeps(seed: int, pattern: str = f"{PREFIX}*", dtype: str = "*") -> Iterator[tuple[Preset, tuple[Case, ...]]]:
    """Yield every sweep of which a glob pattern matches a case: its model, and those cases.

    Each is in the compute dtype that is asked for, for `*` in one after the other.
    """
    for sweep in SWEEPS:
        for fprop_dtype in FPROP_DTYPES if dtype == "*" else (dtype,):
            cases = make_cases(sweep, fprop_dtype, seed)
            wanted = tuple(case for case in cases if fnmatch.fnmatchcase(stored_id(case.id), pattern))
            if wanted:
                yield make_model(sweep, seed), wanted


def config_of(sweep: Sweep, seed: int) -> LanguageModelConfig:
    """Return the configuration of a sweep's model: its cache has room for the longest request."""
    random = random_of(f"{PREFIX}{sweep.name}", seed)
    drawn = {name: int(random.choice(sizes)) for name, sizes in sweep.drawn.items()}
    reach = max(end for request in sweep.requests for end in ends(request))
    return varied(**{"vocab_size": 23, **NARROW, **sweep.model, **drawn, "sequence_len": reach + 1})


def ends(request: Request) -> Iterator[int]:
    """Yield the slots that each call of a request reaches, its padding too."""
    steps: Array = np.array(request.filled or (0,) * len(request.calls[0].lengths), np.int32)
    for call in request.calls:
        steps = steps if call.steps is None else np.array(call.steps, np.int32)
        yield int(steps.max()) + max(call.lengths)
        steps = steps + np.array(call.lengths, np.int32)


def make_model(sweep: Sweep, seed: int) -> Preset:
    """Draw the weights of a sweep's model."""
    name, config = f"{PREFIX}{sweep.name}", config_of(sweep, seed)
    statistics = Statistics(seed=zlib.crc32(f"{name} {seed}".encode()), num_groups=4, router_deviation=3)
    return Preset(name, config, synthesize(config, replace(statistics, **sweep.weights)))


def make_cases(sweep: Sweep, fprop_dtype: str, seed: int) -> tuple[Case, ...]:
    """Draw the cases of a sweep."""
    name, config = f"{PREFIX}{sweep.name}", config_of(sweep, seed)
    own = draw_tokens(random_of(name, seed), (1, config.sequence_len), config)
    return tuple(
        Case(
            id=f"{name}/sweep/{request.name}~redrawn-{seed}.{fprop_dtype}",
            preset=name,
            fprop_dtype=fprop_dtype,
            why=request.why,
            origin=ORIGIN,
            calls=tuple(calls_of(request, config, random_of(f"{name}/{request.name}", seed), own)),
            preload=draw_cache(request.filled, random_of(f"{name}/cache", seed), config, fprop_dtype)
            if request.filled
            else None,
            optional=bool(request.filled) or any(call.kind == "truncate" for call in request.calls),
        )
        for request in sweep.requests
    )


def calls_of(request: Request, config: LanguageModelConfig, random: np.random.Generator, own: Array) -> Iterator[Call]:
    """Yield the calls of a request; `own` is the sweep's own prompt, int32 [1, positions]."""
    for number, ask in enumerate(request.calls):
        call = drawn_call(ask.kind, ask.lengths, config, random)
        tokens = call.tokens
        if request.shared is not None and number == 0:
            tokens[:, request.shared] = own[:, request.shared]
        if number == 0:
            tokens[:, : len(request.begins)] = request.begins
        if request.alike:
            tokens[:] = own[0, 0]
        if request.last_ids:
            tokens[:] = config.vocab_size - 1 - tokens % NUM_LAST
        if request.equal is not None and (request.parting is None or number < request.parting):
            tokens[request.equal[1]] = tokens[request.equal[0]]
        yield replace(call, tokens=tokens, steps=None if ask.steps is None else np.array(ask.steps, np.int32))
