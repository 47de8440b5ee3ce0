"""Probes: small models designed so that the logits alone show what an engine does, in bfloat16 too.

An engine in production shows its logits and little else, and in bfloat16 most faults drown there in honest rounding.
But weights and prompts are ours to choose. A probe makes the network transparent for one class of operations:

* a block is silenced by values or outputs of zero, whose post-norm is zero;
* the rows of the embedding are orthonormal, so that the final hidden state can be read off the logits;
* a block's output is made as small as √eps, so that its post-norm keeps scalars that a larger one divides away: gates,
  multipliers, eps itself;
* one feature of the embedding is the same for every token; through it activations are moved to the tail in which erf
  and tanh differ, and router logits to a size at which their own rounding shows while softmax takes the shift away;
* queries are so large that attention logits pass the cap, or all come so close to it that only their own rounding
  tells them apart, and prompts are so long that bf16 and TF32 lack positions;
* activations are so small that float16 holds next to nothing of them;
* a prompt is a matched filter: its tokens lie on the side on which bf16 tables of cosines err.

Weights are int8 with bf16 scales, finite, in sizes that engines ask for: heads times head width is the model's width,
head width 64, eight experts. They are drawn by a recipe from a seed and not stored; `digest` fixes them. The recipes
were found with `python -m grok_conformance design-probes`, by the harness's own prediction of what it would see.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Call, Case, Preset
from grok_conformance.harness.cases.recipes import Recipe, draw
from grok_conformance.harness.cases.suite import UNEQUAL, CallRow, draw_call
from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig, TransformerConfig

PRODUCER = "harness.probes"
PREFIX = "probe_"
"""What the names of probes begin with; a pattern of cases selects them only if it begins so too."""


@dataclass(frozen=True, kw_only=True)
class ProbeCase:
    """What is asked of a probe: the last part of the case's name, why, its calls, and whether the tie rule binds.

    `sided` draws every token from the side that `Probe.sided` gives its position.
    """

    name: str
    why: str
    calls: tuple[CallRow, ...]
    tie_rule: bool = False
    sided: bool = False


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe's configuration and recipe, why it exists, its cases, and the sha256 of its weights."""

    config: LanguageModelConfig
    recipe: Recipe
    why: str
    cases: tuple[ProbeCase, ...]
    digest: str

    def sided(self, call: Call) -> Call:
        """Return a prompt whose tokens lie on the side that tells what bf16 tables of cosines err there.

        It is a matched filter: what such tables add to the attention logits of one side they take from the other, and
        the values of all tokens sum it up, while honest roundings know nothing of sides.
        """
        positions = np.arange(call.tokens.shape[1])
        pairs = np.arange(*self.recipe.pairs)
        cosines = np.cos(np.outer(positions, 10_000.0 ** (-2 * pairs / self.config.model.key_size)))
        error = (cosines.astype(DTYPES["bfloat16"]) - cosines).sum(-1)
        half = self.config.vocab_size // 2
        lower = 1 + call.tokens % (half - 1)  # never the pad token
        tokens = np.where(error > np.median(error), lower, half + call.tokens % half)
        return replace(call, tokens=tokens.astype(np.int32))


def sized(*, num_layers: int = 1, width: int = 256, sequence_len: int = 16, selected: int = 2) -> LanguageModelConfig:
    """Return a configuration of the published constants in sizes that engines take: head width 64, eight experts."""
    model = TransformerConfig(
        emb_size=width,
        widening_factor=1.5,
        key_size=64,
        num_q_heads=width // 64,
        num_kv_heads=max(width // 128, 1),
        num_layers=num_layers,
        attn_output_multiplier=UNEQUAL.model.attn_output_multiplier,
        num_experts=8,
        num_selected_experts=selected,
    )
    return LanguageModelConfig(
        model=model,
        vocab_size=256,
        pad_token=0,
        eos_token=2,
        sequence_len=sequence_len,
        embedding_multiplier_scale=UNEQUAL.embedding_multiplier_scale,
        output_multiplier_scale=UNEQUAL.output_multiplier_scale,
        fprop_dtype="bfloat16",
    )


def full(rows: int, length: int) -> CallRow:
    """Return a prefill of rows of one length, without padding."""
    return CallRow("prefill", (length,) * rows, length)


STEP = CallRow("decode", (1,) * 8, 1)
UNEVEN = (12, 7, 9, 12, 4, 11, 5, 8)

PROBES: Mapping[str, Probe] = {
    "probe_moe": Probe(
        config=sized(),
        recipe=Recipe(
            seed=1, constant=8.0, activation=-3.8, activation_gain=0.3, router=600.0, router_deviation=2.0,
            expert_output=12.0, moe_update=2.0, silent="attention",
        ),
        why="attention silent, outputs near √eps, activations where erf and tanh differ, large router logits",
        cases=(
            ProbeCase(name="prefill/rows", why="many short rows, so that few near-ties cost few tokens",
                      calls=(full(24, 4),)),
        ),
        digest="cc94fabc0b3cd1c26c23f392a26303372001c9c4cd95dd77bfba80aee678428d",
    ),
    "probe_attention": Probe(
        config=sized(num_layers=2, selected=8),
        recipe=Recipe(seed=2, query_gain=60.0, attention_output=2.0**-9, silent="experts"),
        why="experts silent, all of them chosen so that no choice is undecided; attention logits beyond the cap",
        cases=(
            ProbeCase(name="prefill/rows", why="rows of one length without padding, which every engine takes",
                      calls=(full(8, 12),)),
            ProbeCase(name="decode/unequal", why="padded rows of unequal lengths, then two steps",
                      calls=(CallRow("prefill", UNEVEN, 12), STEP, STEP)),
            ProbeCase(name="prefill/pads_inside", why="pads between tokens, whose keys are masked",
                      calls=(CallRow("prefill", UNEVEN, 12, pads=tuple((row, 2) for row in range(8))),)),
        ),
        digest="ef2182f9c77003b8164ea05f3527e50fb0331f0e0cba517fa4d852c8bb399527",
    ),
    "probe_softmax": Probe(
        config=sized(selected=8),
        recipe=Recipe(seed=6, constant=2.0, attention=110.0, query_gain=3.0, attention_update=3.0, silent="experts"),
        why="attention logits just below the cap, a few steps of bf16 apart and hardly moved by what they are made of",
        cases=(
            ProbeCase(name="prefill/rows", why="rows of one length without padding, which every engine takes",
                      calls=(full(8, 12),)),
        ),
        digest="4a9f16195ef19466e59ab30742c4280d1ba8921e676e0f182f7831c210089baf",
    ),
    "probe_whole": Probe(
        config=sized(num_layers=2, selected=8),
        recipe=Recipe(seed=3),
        why="both blocks at their usual sizes, two layers, all experts: what is misread, exchanged or left out",
        cases=(
            ProbeCase(name="decode/unequal", why="padded rows of unequal lengths, then two steps",
                      calls=(CallRow("prefill", (5, 3, 4, 5, 2, 4, 3, 5), 5), STEP, STEP)),
        ),
        digest="967cfa689121d2a9ca4fedb91fefbb5b93afabdebe9114165205373cf8355622",
    ),
    "probe_small": Probe(
        config=sized(),
        recipe=Recipe(seed=7, activation_gain=2e-7, expert_output=5e6, moe_update=2.0, silent="attention"),
        why="attention silent, expert activations below what float16 holds, made up for by the last matrix",
        cases=(
            ProbeCase(name="prefill/rows", why="many short rows, so that few near-ties cost few tokens",
                      calls=(full(24, 4),)),
        ),
        digest="9de41bb6f26e25b42cf4c378869d316ccbec9caa83b795d46db09562fdea8ecd",
    ),
    "probe_tables": Probe(
        config=sized(width=128, sequence_len=1024, selected=8),
        recipe=Recipe(
            seed=8, constant=4.0, attention=20.0, pairs=(24, 26), rest=0.1, side=4.0, side_value=64.0,
            attention_update=3.0, silent="experts",
        ),
        why="attention that looks at nothing but positions: what tables of cosines err tips the balance of two sides",
        cases=(
            ProbeCase(name="prefill/prompt", why="1,024 tokens over which honest roundings average out",
                      calls=(full(1, 1024),), sided=True),
        ),
        digest="5472a05c949967d8aac0ec2338382cc4aadd00fb41ab0724b0bcc7518c239a1f",
    ),
    "probe_ties": Probe(
        config=sized(),
        recipe=Recipe(seed=4, tied_experts=(1, 3, 6), silent="attention"),
        why="three experts share one router column: which of them is taken shows in the logits",
        cases=(
            ProbeCase(name="prefill/tie_rule", why="exactly equal scores go to the lowest index, as published",
                      calls=(full(24, 4),), tie_rule=True),
        ),
        digest="5b7342a59e6adaeb6ed9c72aa0723f260376044875884a2e90a76d45e8f4fc26",
    ),
    "probe_long": Probe(
        config=sized(width=128, sequence_len=2112, selected=8),
        recipe=Recipe(seed=5, query_gain=25.0, attention_output=2.0**-9, silent="experts"),
        why="positions beyond the integers of bf16 (256) and TF32 (2048) in one prompt",
        cases=(ProbeCase(name="prefill/prompt", why="one prompt of 2,100 tokens", calls=(full(1, 2100),)),),
        digest="7a21464e480120925e07a7cb00d40ddf7dedcb52f145ebcfe74b8df85c9bd583",
    ),
}  # fmt: skip


def make_probe(name: str) -> Preset:
    """Draw a probe's weights."""
    probe = PROBES[name]
    return Preset(name, probe.config, draw(probe.config, probe.recipe))


def digest_of(weights: Mapping[str, Array]) -> str:
    """Return the sha256 of all weights, names included, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()


def probe_cases(pattern: str) -> Iterator[Case]:
    """Yield the cases of probes that a glob pattern matches, in float32 and bfloat16; the tokens are the same."""
    for name, probe in PROBES.items():
        for row in probe.cases:
            for dtype in ("float32", "bfloat16"):
                case_id = f"{name}/{row.name}.{dtype}"
                if fnmatch.fnmatchcase(case_id, pattern):
                    random = np.random.default_rng(probe.recipe.seed)
                    calls = tuple(draw_call(call, random, probe.config) for call in row.calls)
                    calls = tuple(map(probe.sided, calls)) if row.sided else calls
                    yield Case(
                        id=case_id, preset=name, fprop_dtype=dtype, why=row.why, origin=PRODUCER, calls=calls,
                        tie_rule=row.tie_rule,
                    )  # fmt: skip
