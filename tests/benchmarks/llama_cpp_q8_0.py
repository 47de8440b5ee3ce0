"""llama.cpp with its usual 8-bit weights: Q8_0 of the same weights, which also makes its activations int8.

A stored weight is int8 with a scale per column; Q8_0 has a float16 scale per 32 rows, so that the weights are rounded
once more. Each product rounds what it multiplies with to int8 likewise. Both are deviations, and the harness says so.
On `bench` the last matrix of an expert, whose rows are no whole blocks, stays in bfloat16.
"""

from __future__ import annotations

from grok_conformance.candidates.llama_cpp import INFO as WIDE_INFO
from grok_conformance.candidates.llama_cpp import LlamaModel, load_in_format
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

INFO = CandidateInfo(name="llama_cpp_q8_0", version=WIDE_INFO.version)


def load(config: LanguageModelConfig, weights: Weights) -> LlamaModel:
    """Load stored weights as Q8_0, with a float32 cache; raises Unsupported as `llama_cpp` does."""
    return load_in_format(config, weights, "float32", "q8_0")
