"""llama.cpp's C interface through ctypes: load a GGUF file, decode a batch, and see named tensors as they are made.

The shared object of the wheel `xllamacpp` exports the C interface. The layout of its structures follows its version,
so the version is pinned (extra `llama-cpp`) and the layout is checked against known defaults before anything runs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.contract import Array, Unsupported

WHEEL = "xllamacpp"

ELEMENT_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 26: np.dtype(np.int32)}
"""NumPy dtypes by ggml_type: what named tensors of this architecture and its caches hold."""

CACHE_TYPES = {"float32": 0, "float16": 1}
"""ggml_type of a key-value cache."""


class Tensor(ctypes.Structure):
    """The head of a ggml_tensor, up to its sources."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("sizes", ctypes.c_int64 * 4),
    ("strides", ctypes.c_size_t * 4),
    ("operation", ctypes.c_int),
    ("parameters", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("sources", ctypes.POINTER(Tensor) * 10),
]

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(Tensor), ctypes.c_bool, ctypes.c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENCE = LogCallback(lambda _level, _text, _user_data: None)
"""What goes wrong is raised, so nothing need be said. It must outlive every call into the library."""


class ModelParams(ctypes.Structure):
    """The llama_model_params, passed on as the library fills it."""

    _fields_ = [("content", ctypes.c_byte * 80)]


class ContextParams(ctypes.Structure):
    """The llama_context_params."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, ctypes.c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, ctypes.c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, ctypes.c_int32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, ctypes.c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
        *((name, ctypes.c_float) for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", EvalCallback),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int),
        ("type_v", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("abort_callback", "abort_callback_data", "reserved")),
        *((name, ctypes.c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full")),
        ("kv_unified", ctypes.c_bool),
        ("tail", ctypes.c_byte * 32),
    ]


KNOWN_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_threads": 4,
    "rope_scaling_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "yarn_beta_slow": -1.0,
    "defrag_thold": -1.0,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "swa_full": True,
    "kv_unified": False,
}
"""Defaults of the pinned version: if a field moved, one of them is not where it should be."""


class Batch(ctypes.Structure):
    """The llama_batch."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_version": (ctypes.c_char_p, ()),
    "ggml_get_name": (ctypes.c_char_p, (ctypes.POINTER(Tensor),)),
    "ggml_nbytes": (ctypes.c_size_t, (ctypes.POINTER(Tensor),)),
    "ggml_backend_tensor_get": (
        None,
        (ctypes.POINTER(Tensor), ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
    ),
    "llama_log_set": (None, (LogCallback, ctypes.c_void_p)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_load_from_file": (ctypes.c_void_p, (ctypes.c_char_p, ModelParams)),
    "llama_model_free": (None, (ctypes.c_void_p,)),
    "llama_context_default_params": (ContextParams, ()),
    "llama_init_from_model": (ctypes.c_void_p, (ctypes.c_void_p, ContextParams)),
    "llama_free": (None, (ctypes.c_void_p,)),
    "llama_batch_init": (Batch, (ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (ctypes.c_int32, (ctypes.c_void_p, Batch)),
}


def version() -> str:
    """Return the versions of the wheel and of ggml in it, which the wheel does not tie together."""
    return f"{WHEEL} {metadata.version(WHEEL)}"


def open_library() -> ctypes.CDLL:
    """Open the wheel's shared object, its functions typed; raises Unsupported where its structures have moved."""
    package = importlib.util.find_spec(WHEEL)
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"No module named {WHEEL!r}", name=WHEEL)
    library = ctypes.CDLL(str(next(Path(package.origin).parent.glob(f"{WHEEL}*.so"))))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    defaults = library.llama_context_default_params()
    for name, value in KNOWN_DEFAULTS.items():
        if getattr(defaults, name) != value:
            found = getattr(defaults, name)
            raise Unsupported(f"llama_context_params.{name} is {found}, not {value}: install the pinned {WHEEL}")
    library.llama_log_set(SILENCE, None)
    library.llama_backend_init()
    return library


def load_model(library: ctypes.CDLL, path: Path) -> int:
    """Load a GGUF file and return the model; raises ValueError if llama.cpp refuses it."""
    model: int | None = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    if model is None:
        raise ValueError("llama.cpp refuses the model")
    return model


@dataclass(frozen=True)
class Context:
    """A cache for some sequences, and the hook by which tensors are seen; `close` it to free the memory."""

    library: ctypes.CDLL
    handle: int
    hook: Any
    seen: dict[str, Array]
    failures: list[str]
    wanted: set[str]

    def close(self) -> None:
        """Free the context."""
        self.library.llama_free(self.handle)


def open_context(library: ctypes.CDLL, model: int, *, num_slots: int, num_sequences: int, cache_dtype: str) -> Context:
    """Return a context with an empty cache of `num_slots` slots that all sequences share, without flash attention."""
    seen: dict[str, Array] = {}
    failures: list[str] = []
    wanted: set[str] = set()
    hook = EvalCallback(_watch(library, wanted, seen, failures))
    params = library.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = num_slots
    params.n_seq_max, params.kv_unified, params.flash_attn_type = num_sequences, True, 0
    params.n_threads = params.n_threads_batch = num_threads()
    params.type_k = params.type_v = CACHE_TYPES[cache_dtype]
    params.cb_eval = hook
    handle: int | None = library.llama_init_from_model(model, params)
    if handle is None:
        raise ValueError("llama.cpp gives no context")
    return Context(library, handle, hook, seen, failures, wanted)


def num_threads() -> int:
    """Return how many threads compute: what OMP_NUM_THREADS says, as other engines take it, else one per core."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else len(os.sched_getaffinity(0))


def decode(context: Context, tokens: Array, positions: Array, sequences: Array, wanted: set[str]) -> dict[str, Array]:
    """Run int32 [n] tokens at their positions of their sequences; return the wanted tensors by name.

    A tensor is named as llama.cpp names it, the last one of that name counting, or `WEIGHT @`, the product with a
    weight. Axes are in NumPy's order, four of them.
    """
    library = context.library
    context.wanted.clear()
    context.wanted.update(wanted)
    context.seen.clear()
    batch = library.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence) in enumerate(zip(tokens, positions, sequences, strict=True)):
            batch.token[i], batch.pos[i] = int(token), int(position)
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, int(sequence)
            batch.logits[i] = 1
        status = library.llama_decode(context.handle, batch)
    finally:
        library.llama_batch_free(batch)
    if status or context.failures:
        raise RuntimeError(f"llama_decode returned {status} {' '.join(context.failures)}".strip())
    return dict(context.seen)


def _watch(
    library: ctypes.CDLL, wanted: set[str], seen: dict[str, Array], failures: list[str]
) -> Callable[[Any, bool, int | None], bool]:
    """Return the callback that llama.cpp asks before a tensor is made (whether it is wanted) and calls after it."""

    def watch(pointer: Any, ask: bool, _user_data: int | None) -> bool:  # noqa: FBT001 - called by the engine
        try:
            names = wanted.intersection(names_of(library, pointer))
            if not ask:
                seen.update(dict.fromkeys(names, read_tensor(library, pointer)))
            return bool(names)
        except Exception:  # noqa: BLE001 - an exception cannot pass through C; `decode` raises it
            failures.append(traceback.format_exc())
            return True

    return watch


def names_of(library: ctypes.CDLL, pointer: Any) -> tuple[str, ...]:
    """Return the names of a tensor: its own, and that of the weight whose product it is."""
    source = pointer.contents.sources[0]
    own = library.ggml_get_name(pointer).decode()
    return (own, f"{library.ggml_get_name(source).decode()} @") if source else (own,)


def read_tensor(library: ctypes.CDLL, pointer: Any) -> Array:
    """Copy a tensor, a view included, into a NumPy array of four axes, slowest first."""
    tensor = pointer.contents
    dtype = ELEMENT_TYPES[tensor.type]
    buffer = np.empty(library.ggml_nbytes(pointer), np.uint8)
    library.ggml_backend_tensor_get(pointer, buffer.ctypes.data, 0, buffer.size)
    shape, strides = ([x[axis] for axis in (3, 2, 1, 0)] for x in (tensor.sizes, tensor.strides))
    return np.lib.stride_tricks.as_strided(buffer.view(dtype), shape, strides).copy()
