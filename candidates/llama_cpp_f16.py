"""llama.cpp with its default cache: keys and values in float16, which also rounds what they are multiplied with."""

from __future__ import annotations

from grok_conformance.candidates.llama_cpp import INFO as FLOAT32_INFO
from grok_conformance.candidates.llama_cpp import LlamaModel, load_with_cache
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

INFO = CandidateInfo(name="llama_cpp_f16", version=FLOAT32_INFO.version, dtypes={"*.kv.*": "float16"})


def load(config: LanguageModelConfig, weights: Weights) -> LlamaModel:
    """Load stored weights with a float16 cache; raises Unsupported for what the architecture cannot express."""
    return load_with_cache(config, weights, "float16")
