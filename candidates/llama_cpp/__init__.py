"""Grok-1 in llama.cpp on the CPU: an engine that nobody here wrote, through the PyPI wheel `xllamacpp`.

Weights become a GGUF file: float32 matrices for a float32 job, bf16 ones for a bf16 job. The cache is float32;
`candidates.llama_cpp_f16` keeps it in float16, the engine's default. What the engine really computes otherwise than
the published model stands in `deviations.toml`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from grok_conformance.candidates.llama_cpp import binding
from grok_conformance.candidates.llama_cpp.model import LlamaModel
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.contract.gguf_file import write_gguf

__all__ = ["INFO", "LlamaModel", "load", "load_in_format", "load_with_cache"]

INFO = CandidateInfo(name="llama_cpp", version=binding.version())


def load(config: LanguageModelConfig, weights: Weights) -> LlamaModel:
    """Load stored weights with a float32 cache; raises Unsupported for what the architecture cannot express."""
    return load_with_cache(config, weights, "float32")


def load_with_cache(config: LanguageModelConfig, weights: Weights, cache_dtype: str) -> LlamaModel:
    """Load stored weights into llama.cpp as matrices of the compute dtype, with a cache of float32 or float16."""
    return load_in_format(config, weights, cache_dtype, config.fprop_dtype)


def load_in_format(config: LanguageModelConfig, weights: Weights, cache_dtype: str, precision: str) -> LlamaModel:
    """Load stored weights into llama.cpp as matrices of a precision that `write_gguf` knows."""
    check_config(config)
    library = binding.open_library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grok.gguf"
        write_gguf(path, config, weights, precision)
        return LlamaModel(library, binding.load_model(library, path), config, cache_dtype)


def check_config(config: LanguageModelConfig) -> None:
    """Raise Unsupported for a configuration that llama.cpp's architecture `grok` cannot express."""
    model = config.model
    if config.dense:
        raise Unsupported("only mixtures of experts")
    if model.num_q_heads * model.key_size != model.emb_size:
        product = f"{model.num_q_heads} heads · {model.key_size}"
        raise Unsupported(f"heads · head width must be the model width: {product} is not {model.emb_size}")
