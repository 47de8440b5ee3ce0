"""The canonical model streamed from a checkpoint: the one place where the harness imports the reference.

What it gives is reduced and dropped layer by layer; in a job folder it would need room for the whole model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from grok_conformance import reference
from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig, TransformerConfig
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large.plan import Plan
from grok_conformance.reference import streaming
from grok_conformance.reference.checkpoint import CheckpointError
from grok_conformance.reference.checkpoint.index import sample_digest
from grok_conformance.reference.checkpoint.layout import LeafFile, find_folder, find_leaves, tensor_files
from grok_conformance.reference.checkpoint.pickles import StoredArray


@dataclass(frozen=True)
class Stage:
    """A stage of the forward pass: its taps and the residual streams after it, call by call."""

    taps: tuple[dict[str, Array], ...]
    carried: tuple[Array, ...]


@dataclass(frozen=True)
class Processes:
    """Where the processes of one capture meet, which of them this one is, and how many there are."""

    coordinator: str
    index: int
    count: int


@dataclass(frozen=True)
class Sizes:
    """What streaming a model takes: bytes read, bytes of memory at the least, and how fast the disk gave some."""

    read_bytes: int
    memory_bytes: int
    bytes_per_second: float


def preset_config(name: str) -> LanguageModelConfig:
    """Return a preset of the reference as the harness has it; raises FileError for an unknown name."""
    if name not in reference.PRESETS:
        raise FileError(f"no preset {name!a}: there are {', '.join(reference.PRESETS)}")
    fields = asdict(reference.PRESETS[name])
    model = fields.pop("model")
    fields["fprop_dtype"] = str(fields["fprop_dtype"])
    return LanguageModelConfig(model=TransformerConfig(**model), **fields)


def reference_config(config: LanguageModelConfig) -> reference.LanguageModelConfig:
    """Return a configuration as the reference has it: the same published names."""
    fields = asdict(config)
    model = reference.TransformerConfig(**fields.pop("model"))
    return reference.LanguageModelConfig(model=model, **fields)


def checkpoint_digest(directory: Path) -> str:
    """Return one sha256 over a sample of every file of a checkpoint; raises FileError."""
    with _as_file_errors():
        folder = find_folder(directory)
    digest = hashlib.sha256()
    for name in tensor_files(folder):
        digest.update(sample_digest(folder / name).encode())
    return digest.hexdigest()


def join(processes: Processes) -> None:
    """Make this process one of several that capture together, before JAX is used."""
    jax.distributed.initialize(processes.coordinator, processes.count, processes.index)


def agree(done: int, carried: Sequence[Array], plan: Plan) -> tuple[int, list[Array]]:
    """Return what the first process says of how far the capture is, in every process."""
    done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))
    if not done:
        return 0, []
    dtype = DTYPES[plan.config.fprop_dtype]
    streams = carried or [np.zeros((*call.tokens.shape, plan.config.model.emb_size), dtype) for call in plan.calls]
    return done, [np.asarray(multihost_utils.broadcast_one_to_all(x.view(np.uint8))).view(dtype) for x in streams]


def record_device() -> dict[str, str]:
    """Return the device and its driver's and compiler's version as JAX knows them, and how processes share the work."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "device_platform": device.client.platform,
        "device_version": " ".join(device.client.platform_version.split()),
        "processes": str(jax.process_count()),
    }


def sizes(plan: Plan, checkpoint: Path) -> Sizes:
    """Return what streaming a plan takes; reads the first layer up to its experts, and one expert, to time the disk."""
    with _as_file_errors(), streaming.open_stream(checkpoint, reference_config(plan.config)) as stream:
        layers = [streaming.layer_bytes(stream, i) for i in range(plan.num_layers)]
        table = stream.table.num_bytes if plan.complete else 0
        pieces = [] if plan.config.dense else [piece for matrix in stream.expert(0, 0) for piece in matrix]
        began, timed = time.perf_counter(), [stream.layer(0), *(piece.regions for piece in pieces)]
        for regions in timed:
            stream.reader.request(regions).result().give_back()
        num_bytes = sum(region.num_bytes for regions in timed for region in regions)
        return Sizes(sum(layers) + table, stream.memory_bytes, num_bytes / (time.perf_counter() - began))


def run(plan: Plan, checkpoint: Path, first_stage: int, carried: Sequence[Array]) -> Iterator[Stage]:
    """Yield the stages of a plan from `first_stage` on, `carried` being the residual streams before it.

    Processes that have joined share the experts, and all of them yield the same. Raises FileError.
    """
    config = reference_config(plan.config)
    calls = [streaming.Call(call.tokens, call.lengths) for call in plan.calls]
    b = plan.calls[0].tokens.shape[0]
    caches = reference.init_memory(config, b, config.sequence_len).layers
    with _as_file_errors(), streaming.open_stream(checkpoint, config) as stream:
        stages = streaming.run(stream, calls, caches, first_layer=max(first_stage - 1, 0), embeddings=carried)
        with closing(stages):
            for _, stage in zip(plan.stages[first_stage:], stages, strict=False):
                yield Stage(stage.taps, tuple(np.asarray(x) for x in stage.embeddings))


class CheckpointWeights(Mapping[str, Array]):
    """The stored weights of a checkpoint by name, each mapped from its file when it is asked for (SPEC §2, §8)."""

    def __init__(self, checkpoint: Path, config: LanguageModelConfig) -> None:
        """Find the files; raises FileError."""
        with _as_file_errors():
            leaves = find_leaves(checkpoint, reference_config(config))
        self._files = {name: (leaf.path, array) for leaf in leaves for name, array in _arrays(leaf)}

    def __getitem__(self, name: str) -> Array:
        """Return one tensor, a read-only view of its file."""
        path, stored = self._files[name]
        data = np.memmap(path, np.uint8, "r", stored.offset, (stored.num_bytes,))
        array: Array = np.asarray(data).view(stored.dtype).reshape(stored.shape, order=stored.order)
        return array

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._files)


def _arrays(leaf: LeafFile) -> Iterator[tuple[str, StoredArray]]:
    name = f"{leaf.module}/{leaf.name}"
    if leaf.stored.scales is None:
        yield name, leaf.stored.weight
    else:
        yield f"{name}.weight", leaf.stored.weight
        yield f"{name}.scales", leaf.stored.scales


@contextmanager
def _as_file_errors() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise FileError(str(error)) from None
