"""EasyDeL's Grok-1 on JAX: an engine that nobody here wrote, seen through the calls of its modules.

It pins another JAX than the reference takes, so that it wants an environment of its own. What it does otherwise than
the published model stands in `deviations.toml`. It scales attention logits by h^-½ whatever its configuration says,
and is told the published scale; it counts positions without pads, and is told the published ones. In bfloat16 its
router gives bfloat16, which is shown in float32: behind a norm that is not shown no value tells that it was rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import easydel
import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, Weights, grok_1
from grok_conformance.harness.contract.gguf_file import dequantized
from grok_conformance.harness.contract.tap_map import TapSource, map_taps, shown_taps

LAYER = "model.layers.{layer}"
MODULES = (
    TapSource("embedding", "model.embed_tokens[0]", "b t d"),
    TapSource("layers.*.attention.query", f"{LAYER}.attn.q_proj[0]", "b t (q h)"),
    TapSource("layers.*.attention.key", f"{LAYER}.attn.k_proj[0]", "b t (g h)"),
    TapSource("layers.*.attention.value", f"{LAYER}.attn.v_proj[0]", "b t (g h)"),
    TapSource("layers.*.attention.query_rotated", f"{LAYER}.attn.rotary[0]", "b t q h"),
    TapSource("layers.*.attention.key_rotated", f"{LAYER}.attn.rotary[1]", "b t g h"),
    TapSource("layers.*.attention.output", f"{LAYER}.attn.o_proj[0]", "b t d"),
    TapSource("layers.*.router.logits", f"{LAYER}.moe_block.gate[0]", "b t e"),
    TapSource("layers.*.moe.output", f"{LAYER}.moe_block[0]", "b t d"),
    TapSource("layers.*.output", f"{LAYER}[0]", "b t d"),
    TapSource("final_norm", "model.norm[0]", "b t d"),
    TapSource("logits", "logits", "b t v"),
)
INFO = CandidateInfo(name="easydel", version="0.3.0", taps=shown_taps(MODULES))
STORED = {
    "embed_tokens": grok_1.EMBEDDINGS, "lm_head": grok_1.EMBEDDINGS, "norm": grok_1.LAST_GAIN, "gate": grok_1.ROUTER,
    "q_proj": grok_1.QUERY, "k_proj": grok_1.KEY, "v_proj": grok_1.VALUE, "o_proj": grok_1.ATTENTION_OUT,
    **dict(zip(("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm"), grok_1.GAINS, strict=True)),
    **dict(zip(("linear", "linear_v", "linear_1"), grok_1.EXPERTS, strict=True)),
}  # fmt: skip


class Model:
    """The engine's model, which is asked for prompts alone; what its modules return is kept by their paths."""

    def __init__(self, config: LanguageModelConfig, module: Any) -> None:
        """Watch the calls of every module, which all run op by op."""
        self.config, self.module, self.seen = config, module, dict[str, Array]()
        paths = {id(each): ".".join(map(str, path)) for path, each in nnx.iter_modules(module)}

        def watch(each: Any, call: Any, *arguments: Any, **options: Any) -> Any:
            made = call(each, *arguments, **options)
            given = getattr(made, "hidden_states", made)  # of a layer
            for i, x in enumerate(given if isinstance(given, tuple) else (given,)):
                self.seen[f"{paths.get(id(each))}[{i}]"] = np.asarray(x)
            return made

        for kind in {kind for _, each in nnx.iter_modules(module) for kind in type(each).__mro__}:
            if "__call__" in vars(kind) and kind.__module__.startswith("easydel"):
                kind.__call__ = functools.partialmethod(watch, kind.__call__)  # type: ignore[assignment, method-assign]

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:  # noqa: ARG002
        """Run prompts; token 0 is padding, which the engine is told by a mask."""
        ids, places = jnp.asarray(tokens), jnp.arange(tokens.shape[1])
        with self.module.mesh, jax.default_matmul_precision("highest"):
            made = self.module(ids, attention_mask=ids > 0, position_ids=jnp.broadcast_to(places, ids.shape))
        wide = {name: x.astype(np.float32) for name, x in self.seen.items() if name.endswith("gate[0]")}
        return map_taps(MODULES, self.config, tokens, taps, {**self.seen, **wide, "logits": np.asarray(made.logits)})


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Load stored weights; raises Unsupported for what the engine's Grok cannot express."""
    model, sizes, dtype = config.model, config.axis_sizes, jnp.dtype(config.fprop_dtype)
    if config.dense or sizes["q"] * sizes["h"] != sizes["d"]:
        raise Unsupported("only mixtures of experts, with heads times head width the width of the model")
    made = easydel.Grok1Config(
        vocab_size=sizes["v"], hidden_size=sizes["d"], intermediate_size=sizes["f"], num_experts=sizes["e"],
        num_experts_per_tok=sizes["c"], num_hidden_layers=model.num_layers, num_attention_heads=sizes["q"],
        num_key_value_heads=sizes["g"], max_position_embeddings=config.sequence_len, attn_mechanism="vanilla",
        attn_dtype=dtype, embedding_multiplier_scale=config.embedding_multiplier_scale,
        output_multiplier_scale=config.output_multiplier_scale, attn_output_multiplier=model.attn_output_multiplier,
    )  # fmt: skip
    module = easydel.Grok1ForCausalLM(made, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    for layer in module.model.layers:
        layer.attn.attention_performer.softmax_scale = model.attn_output_multiplier
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        x = dequantized(weights, (grok_1.LAYER.format(layer=path[2]) if "layers" in path else "") + STORED[path[-2]])
        x = x[path[path.index("experts") + 1]] if "experts" in path else x.T if "lm_head" in path else x
        variable.set_value(jnp.asarray(x, variable.get_value().dtype))
    return Model(config, module)
