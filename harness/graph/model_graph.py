"""A model as a graph: its operations, wired by the taps that they read and make, and the names of its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from grok_conformance.harness.contract import LanguageModelConfig, TapSpec, Weights, split_tap, tap_name
from grok_conformance.harness.contract.grok_1 import StoredWeight
from grok_conformance.harness.contract.taps import names_of
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import LAST_OUTPUT, RESIDUAL_STREAM, Operation


@dataclass(frozen=True, kw_only=True)
class ModelGraph:
    """What the checks know of a model; everything that is true of one model alone is in its instance.

    `taps` are the contract on what its operations make, `layer_path` the module path of a layer's weights. `stream`
    names what the residual stream is before the first layer and after every layer; `weights` says what is known of a
    weight, under the names that the rows have for it. `nouns` say what lies along an axis, `quantised` what a port has
    declared of the operands of its operations.
    """

    operations: tuple[Operation, ...]
    taps: tuple[TapSpec, ...]
    layer_path: str
    stream: tuple[str, str]
    weights: Mapping[str, StoredWeight] = field(default_factory=dict)
    nouns: Mapping[str, str] = field(default_factory=dict)
    quantised: Mapping[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, object]:
        """What is passed on to another process, which works out anew what is kept here."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @functools.cached_property
    def specs(self) -> Mapping[str, TapSpec]:
        """The contract on every tap, by its name without the layer."""
        return {spec.operation: spec for spec in self.taps}

    @functools.cached_property
    def by_name(self) -> Mapping[str, Operation]:
        """The operations by name."""
        return {operation.name: operation for operation in self.operations}

    @functools.cached_property
    def choice(self) -> str:
        """The tap of chosen experts, empty where a model has none."""
        return next((operation.tap for operation in self.operations if operation.chooses), "")

    @functools.cached_property
    def scores(self) -> str:
        """The tap of the scores by which experts are chosen, empty where a model has none."""
        return next((operation.tap for operation in self.operations if operation.scores), "")

    @functools.cached_property
    def copies(self) -> tuple[str, ...]:
        """The taps that are copies: the cached keys, then the cached values."""
        return tuple(operation.tap for operation in self.operations if operation.copies)

    @functools.cached_property
    def rounded_taps(self) -> frozenset[str]:
        """The taps recorded in float32 that an honest port may round to its compute dtype, and show in it."""
        return frozenset(row.tap for row in self.operations if any(point.wide for point in row.points))

    @functools.cached_property
    def stream_edges(self) -> tuple[tuple[str, str], ...]:
        """The rows that add to the residual stream, each with the name under which it reads it."""
        return tuple((row.name, row.inputs[0]) for row in self.operations if row.is_stream)

    @functools.cached_property
    def token_alone(self) -> tuple[str, ...]:
        """The taps that in the first layer, or before it, depend on nothing but the token."""
        return tuple(operation.tap for operation in self.operations if operation.token_alone)

    def noun(self, axis: str) -> str:
        """Return the word for one place along an axis."""
        return self.nouns.get(axis, f"{axis} slice")

    def is_real(self, tap: str) -> bool:
        """Return whether a tap holds real numbers, which may be rounded, and not ids."""
        return self.specs[split_tap(tap.removeprefix("previous:"))[1]].dtype != "int32"

    @functools.cached_property
    def tap_names(self) -> Callable[[LanguageModelConfig], tuple[str, ...]]:
        """Every tap of a configuration, in the order in which the forward pass makes them, worked out once."""
        return functools.cache(functools.partial(names_of, self.taps))

    @functools.cached_property
    def taps_with_rows(self) -> Callable[[LanguageModelConfig], tuple[tuple[str, Operation], ...]]:
        """Every tap of a configuration with the row that makes it, in order, worked out once."""

        def found(config: LanguageModelConfig) -> tuple[tuple[str, Operation], ...]:
            return tuple((tap, self.operation_of(tap, config)) for tap in self.tap_names(config))

        return functools.cache(found)

    @functools.cached_property
    def taps_of_rows(self) -> Callable[[LanguageModelConfig], Mapping[str, frozenset[str]]]:
        """The taps that each row of a configuration makes, by row, worked out once."""

        def found(config: LanguageModelConfig) -> Mapping[str, frozenset[str]]:
            pairs = self.taps_with_rows(config)
            return {row.name: frozenset(tap for tap, maker in pairs if maker is row) for _, row in pairs}

        return functools.cache(found)

    def operation_of(self, tap: str, config: LanguageModelConfig) -> Operation:
        """Return the row that makes a tap, of the kind of block that the configuration has."""
        return self._makers["dense" if config.dense else "moe", split_tap(tap)[1]]

    @functools.cached_property
    def _makers(self) -> Mapping[tuple[str, str], Operation]:
        blocks = ("moe", "dense")
        return {(b, row.tap): row for b in blocks for row in self.operations if row.block in ("always", b)}

    def computed_by(self, tap: str, config: LanguageModelConfig, plan: RoundingPlan) -> Operation:
        """Return the row that makes a tap under a plan: another one where the plan splits it through a hidden row."""
        row = self.operation_of(tap, config)
        if row.through is not None and plan.at(row.through[0]) != row.through[0].published:
            return row.through[1]
        return row

    def input_taps(self, tap: str, config: LanguageModelConfig) -> tuple[str, ...]:
        """Return the taps that a tap's operation reads; `previous:TAP` is the same tap of the call before."""
        return self.resolve_inputs(self.operation_of(tap, config).inputs, tap, config)

    def resolve_inputs(self, names: Sequence[str], tap: str, config: LanguageModelConfig) -> tuple[str, ...]:
        """Return the taps that a row's names of inputs stand for beside a tap: of its layer, or of a neighbour."""
        layer = split_tap(tap)[0]
        return tuple(self._resolve(name, layer, config.model.num_layers) for name in names)

    def _resolve(self, name: str, layer: int | None, num_layers: int) -> str:
        first, following = self.stream
        if name == LAST_OUTPUT:
            return tap_name(num_layers - 1, following)
        if name == RESIDUAL_STREAM:
            return tap_name(layer - 1, following) if layer else first
        if name.startswith("previous:"):
            return "previous:" + tap_name(layer, name.removeprefix("previous:"))
        return tap_name(layer, name)

    def makers(self, name: str, config: LanguageModelConfig) -> tuple[str, ...]:
        """Return the rows that make an input, by the name under which a row reads it."""
        named = {LAST_OUTPUT: self.stream[1:], RESIDUAL_STREAM: self.stream}
        return named.get(name) or (self.operation_of(name.removeprefix("previous:"), config).name,)

    @functools.cached_property
    def rows_of(self) -> Callable[[LanguageModelConfig], tuple[Operation, ...]]:
        """The rows that a configuration has, in order, worked out once."""

        def found(config: LanguageModelConfig) -> tuple[Operation, ...]:
            names = {self.operation_of(tap, config).name for tap in self.tap_names(config)}
            return tuple(row for row in self.operations if row.name in names)

        return functools.cache(found)

    def stored_form(self, row: Operation, weights: Weights) -> str:
        """Return in which form those weights are stored that a row's plan may follow, in words; empty for none."""
        path = row.stored_as or next(iter(row.weights), "")
        if not path:
            return ""
        name = path[1:] if path.startswith("/") else self.layer_path.format(layer=0) + path
        scales = weights.get(f"{name}.scales")
        return "float weights" if scales is None else f"int8 with {scales.dtype} scales"

    def form_of(self, row: Operation, config: LanguageModelConfig, weights: Weights) -> tuple[str, ...]:
        """Return what a row's ways may hang on, in words: how its weights are stored, and which block is before it."""
        before = {maker for name in row.inputs for maker in self.makers(name, config)}
        block = next((self.by_name[name].block for name in before if self.by_name[name].block != row.block), "always")
        behind = {"moe": "behind experts", "dense": "behind a dense block"}.get(block, "")
        return tuple(part for part in (self.stored_form(row, weights), behind) if part)

    def weight_names(self, tap: str, config: LanguageModelConfig) -> tuple[str, ...]:
        """Return the stored names of the weights that a tap's operation reads (SPEC §2)."""
        return self.stored_names(self.operation_of(tap, config), tap)

    def stored_names(self, row: Operation, tap: str) -> tuple[str, ...]:
        """Return the stored names of the weights of a row that makes a tap."""
        prefix = self.layer_path.format(layer=split_tap(tap)[0])
        return tuple(name[1:] if name.startswith("/") else prefix + name for name in row.weights)

    def below(self, name: str) -> tuple[int | None, str]:
        """Split a stored name into the layer, None where it has none, and the name that the rows have for it."""
        before, after = self.layer_path.split("{layer}")
        layer, found, path = name.removeprefix(before).partition(after)
        return (int(layer), path) if name.startswith(before) and found and layer.isdigit() else (None, f"/{name}")

    def kind_of(self, name: str) -> str:
        """Return what a stored weight is (`StoredWeight.kind`), empty where it is not in the table."""
        weight = self.weight_of(name)
        return "" if weight is None else weight.kind

    def reads_experts(self, row: Operation) -> bool:
        """Return whether a row multiplies by the matrices of chosen experts."""
        return any(path in self.weights and self.weights[path].kind == "expert" for path in row.weights)

    def weight_of(self, name: str) -> StoredWeight | None:
        """Return what is known of a stored tensor, a weight or one of its two parts; None for one not in the table."""
        return self.weights.get(self.below(name.removesuffix(".weight").removesuffix(".scales"))[1])

    def recorded_dtypes(self, config: LanguageModelConfig, weights: Weights) -> dict[str, str]:
        """Return the dtype in which the specification keeps each operation's result, by operation.

        That of the experts follows from the dtype of their scales (SPEC §9).
        """
        expert = next((name for name, weight in self.weights.items() if weight.kind == "expert"), "")
        scales = weights.get(f"{self.layer_path.format(layer=0)}{expert}.scales")
        wide_experts = scales is not None and str(scales.dtype) == "float32"
        names = {
            "fprop": config.fprop_dtype,
            "cache": config.fprop_dtype,
            "expert": "float32" if wide_experts else config.fprop_dtype,
        }
        return {spec.operation: names.get(spec.dtype, spec.dtype) for spec in self.taps}
