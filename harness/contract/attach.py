"""Records what the modules of a live model compute, so that an adapter need not touch the model's own code.

A name is the path of a module, or the end of one, with `{layer}` for the layer's index; what is recorded under it is
the module's output. `NAME[1]` is the second of several outputs, `NAME[router_logits][0]` what a dictionary of them has
there, `NAME(0)` the first argument, `NAME(x)` the one that is called x; `[logits]` is an output of the model itself.
These are the names under which a tap map reads:

    record = attach(model, engine_names(TAP_MAP))     # torch; warm up before, or outside of `record`
    with record() as recorded:
        model(tokens)
    taps = map_taps(TAP_MAP, config, tokens, wanted, recorded)

For JAX, `with_modules` wraps a function of haiku modules, and `from_intermediates` reads what flax captured.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract.candidate import Array

Recording = Callable[[], AbstractContextManager[Mapping[str, Array]]]
"""Begins to record; the dictionary that it gives is filled while the model runs."""

_NAME = re.compile(r"(?P<path>[^\[\]()]*)((?P<picked>(\[\w+\])+)|\((?P<argument>\w+)\))?")


@dataclass(frozen=True)
class Place:
    """Where a recorded name is found: the module's path, and which of its outputs, or which argument if not None."""

    name: str
    path: str
    output: tuple[str, ...]
    argument: str | None


def find_places(names: Collection[str], paths: Collection[str], separator: str = ".") -> tuple[Place, ...]:
    """Return the place of every name, one for each layer that it has.

    Raises ValueError for a name that is none, that no module or several modules match.
    """
    return tuple(place for name in dict.fromkeys(names) for place in _places(name, paths, separator))


def _places(name: str, paths: Collection[str], separator: str) -> Iterator[Place]:
    parsed = _NAME.fullmatch(name)
    if parsed is None or not name:
        raise ValueError(f"{name}: a name is PATH, PATH[output] or PATH(argument), PATH empty for the model itself")
    output, argument = re.findall(r"\w+", parsed["picked"] or ""), parsed["argument"]
    ending = re.escape(parsed["path"]).replace(re.escape("{layer}"), r"(?P<layer>\d+)", 1)
    found = re.compile(f"(?:.*{re.escape(separator)})?{ending.replace(re.escape('{layer}'), '(?P=layer)')}")
    by_name: dict[str, list[str]] = {}
    for path in paths:
        if match := found.fullmatch(path):
            by_name.setdefault(name.replace("{layer}", match.groupdict().get("layer", "")), []).append(path)
    if not by_name:
        last = parsed["path"].split(separator)[-1]
        near = [path for path in paths if path.split(separator)[-1] == last] or [path for path in paths if path]
        there = f"there are {', '.join(near[:6])}, …" if near else "the model has no modules below it"
        raise ValueError(f"{name}: no module has this path; {there}")
    for recorded, matching in by_name.items():
        if len(matching) > 1:
            raise ValueError(f"{recorded}: the path of several modules: {', '.join(matching[:6])}: give more of it")
        yield Place(recorded, matching[0], tuple(output), argument)


def attach(module: Any, names: Collection[str]) -> Recording:
    """Hook a torch module, and return what begins to record it; values are copied before anyone can change them.

    Raises ValueError as `find_places` does. A recording raises ValueError for a module that gives several values of
    which none was picked, or that is called twice, and RuntimeError for one that was not called. Under torch.compile
    every hook breaks the graph, which a warning says; it must be attached before the first call.
    """
    modules = dict(module.named_modules())
    places = find_places(names, modules)
    active: list[dict[str, Array]] = []
    watch = _watch_torch(active)
    if any(type(each).__name__ == "OptimizedModule" or each._compiled_call_impl for each in modules.values()):  # noqa: SLF001 - torch has no other sign
        import torch  # noqa: PLC0415 - only an adapter of a torch model comes here

        warnings.warn(
            f"torch.compile: {len(places)} hooks break the graph, and what it would fuse across them is not judged",
            stacklevel=2,
        )
        watch = torch.compiler.disable(watch)  # type: ignore[no-untyped-call]
    for place in places:
        if place.argument is None:
            modules[place.path].register_forward_hook(
                lambda _module, _arguments, output, place=place: watch(place, output)
            )
        else:
            modules[place.path].register_forward_pre_hook(
                lambda _module, arguments, named, place=place: watch(place, _argument(place, arguments, named)),
                with_kwargs=True,
            )
    return lambda: _recording(active, places)


def _watch_torch(active: list[dict[str, Array]]) -> Callable[[Place, Any], None]:
    """Return the function that copies a value into the recording at hand, if there is one."""

    def watch(place: Place, value: Any) -> None:
        for seen in active:
            _add(seen, place, to_numpy(_picked(place, value)))

    return watch


@contextmanager
def _recording(active: list[dict[str, Array]], places: Collection[Place]) -> Iterator[Mapping[str, Array]]:
    seen: dict[str, Array] = {}
    active.append(seen)
    try:
        yield seen
    finally:
        active.remove(seen)
    absent = [place.name for place in places if place.name not in seen]
    if absent:
        why = "a compiled module must be attached before its first call; see also torch._dynamo.reset()"
        raise RuntimeError(f"{', '.join(absent[:6])}: not called while recording ({why})")


def _add(seen: dict[str, Array], place: Place, value: Array) -> None:
    if place.name in seen:
        raise ValueError(f"{place.name}: called twice in one recording; record each call, or pick another module")
    seen[place.name] = value


def _picked(place: Place, value: Any) -> Any:
    for key in place.output:
        value = value[int(key) if key.isdigit() else key]
    if isinstance(value, tuple | list | Mapping):
        first = next(iter(value), 0) if isinstance(value, Mapping) else 0
        raise ValueError(f"{place.name}: gives {len(value)} values; pick one, as {place.name}[{first}]")  # noqa: TRY004 - of the name, not of the type
    return value


def _argument(place: Place, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    argument = place.argument or ""
    return arguments[int(argument)] if argument.isdigit() else named[argument]


def to_numpy(x: Any) -> Array:
    """Copy a tensor of torch, or of an engine that gives one `as_torch`, whatever its device, strides and dtype."""
    import torch  # noqa: PLC0415 - only an adapter of a torch model comes here

    x = x if isinstance(x, torch.Tensor) else x.as_torch()
    x = x.detach().to("cpu", copy=True)
    if x.dtype == torch.bfloat16:  # which NumPy knows only through ml_dtypes
        bits: Array = x.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = x.numpy()
    return array


def with_modules(function: Callable[..., Any], names: Collection[str]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function of haiku modules that also gives what the named ones compute, to be transformed and jitted.

    Paths have slashes: `transformer/decoder_layer_{layer}/router`. Raises as `attach` does.
    """

    def watched(*arguments: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
        import haiku as hk  # noqa: PLC0415 - only an adapter of a haiku model comes here

        calls: list[tuple[str, tuple[Any, ...], Mapping[str, Any], Any]] = []

        def watch(method: Callable[..., Any], given: tuple[Any, ...], by_name: dict[str, Any], context: Any) -> Any:
            output = method(*given, **by_name)
            if context.method_name == "__call__":
                calls.append((context.module.module_name, given, by_name, output))
            return output

        with hk.intercept_methods(watch):
            result = function(*arguments, **named)
        counts = Counter(path for path, *_ in calls)
        seen: dict[str, Any] = {}
        for place in find_places(names, counts, "/"):
            for path, given, by_name, output in calls:
                if path == place.path:
                    _add(
                        seen,
                        place,
                        _picked(place, output) if place.argument is None else _argument(place, given, by_name),
                    )
        return result, seen

    return watched


def from_intermediates(intermediates: Mapping[str, Any], names: Collection[str]) -> dict[str, Array]:
    """Return what flax captured (`capture_intermediates=True`) by name; paths have slashes, and no `__call__`."""
    calls = dict(_flatten(intermediates))
    seen = {}
    for place in find_places(names, calls, "/"):
        if len(calls[place.path]) > 1:
            raise ValueError(f"{place.name}: called {len(calls[place.path])} times in one recording")
        seen[place.name] = np.asarray(_picked(place, calls[place.path][0]))
    return seen


def _flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    for key, value in tree.items():
        if key == "__call__":
            yield path, value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{path}/{key}" if path else key)
