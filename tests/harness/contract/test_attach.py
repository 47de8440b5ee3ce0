"""Attaching to a live model: names that fit one module and no other, copies, and nothing of the warm-up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grok_conformance.harness.contract.attach import attach, find_places, from_intermediates, with_modules

pytest.importorskip("torch")  # some interpreters have none
import torch

PATHS = ("", "model", "model.layers.0", "model.layers.0.q", "model.layers.1", "model.layers.1.q", "model.q", "head")


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Identity()

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.inner(x * scale)
        z = y * 1
        y.add_(100)  # in place, after the hook
        return z, y


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x, _ = layer(x, scale=torch.tensor(2.0))
        return x


def run(net: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with torch.no_grad():
        net(torch.ones(2, 3))


def test_a_name_is_the_end_of_one_modules_path_in_every_layer() -> None:
    places = find_places(["layers.{layer}.q", "head", "layers.{layer}(0)"], PATHS)
    assert [(place.name, place.path, place.argument) for place in places] == [
        ("layers.0.q", "model.layers.0.q", None),
        ("layers.1.q", "model.layers.1.q", None),
        ("head", "head", None),
        ("layers.0(0)", "model.layers.0", "0"),
        ("layers.1(0)", "model.layers.1", "0"),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layers.{layer}.k", r"layers\.{layer}\.k: no module has this path; there are model, "),
        ("q", "q: the path of several modules: model.layers.0.q, model.layers.1.q, model.q: give more of it"),
        ("ead", "ead: no module has this path"),
        ("head[]", r"head\[\]: a name is PATH, PATH\[output\] or PATH\(argument\)"),
    ],
)
def test_a_name_that_fits_no_module_or_several_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_places([name], PATHS)


def test_outputs_and_arguments_are_copied_before_they_change() -> None:
    net = Net()
    record = attach(net, ["layers.{layer}.inner", "layers.{layer}[0]", "layers.0(0)", "layers.1(scale)"])
    with record() as recorded:
        run(net)
    values = {name: float(value.flat[0]) for name, value in recorded.items()}
    assert values == {
        "layers.0(0)": 1, "layers.0.inner": 2, "layers.0[0]": 2,
        "layers.1(scale)": 2, "layers.1.inner": 4, "layers.1[0]": 4,
    }  # fmt: skip


def test_only_what_runs_while_recording_is_recorded() -> None:
    net = Net()
    record = attach(net, ["layers.0[0]"])
    run(net)  # warm up
    with record() as recorded:
        run(net)
    run(net)
    assert set(recorded) == {"layers.0[0]"}
    with pytest.raises(RuntimeError, match=r"layers\.0\[0\]: not called while recording"), record():
        pass
    with record():
        run(net)
        with pytest.raises(ValueError, match=r"layers\.0\[0\]: called twice in one recording"):
            run(net)


def test_several_outputs_of_which_none_was_picked_are_refused() -> None:
    net = Net()
    with (
        pytest.raises(ValueError, match=r"layers\.0: gives 2 values; pick one, as layers\.0\[0\]"),
        attach(net, ["layers.0"])(),
    ):
        run(net)


def test_bfloat16_comes_bit_for_bit() -> None:
    net = torch.nn.Sequential(torch.nn.Identity())
    with attach(net, ["0"])() as recorded:
        net(torch.tensor([[1.0, 3.140625], [-2.5, 2.0**90]], dtype=torch.bfloat16).T)
    assert str(recorded["0"].dtype) == "bfloat16"
    np.testing.assert_array_equal(recorded["0"].astype(np.float32), [[1, -2.5], [3.140625, 2.0**90]])


def test_a_compiled_module_is_recorded_and_the_graph_breaks_are_said() -> None:
    net = torch.compile(Net(), backend="eager")
    with pytest.warns(UserWarning, match=r"torch\.compile: 2 hooks break the graph"):
        record = attach(net, ["layers.{layer}[0]"])
    run(net)
    with record() as recorded:
        run(net)
    assert {name: float(value.flat[0]) for name, value in recorded.items()} == {"layers.0[0]": 2, "layers.1[0]": 4}


def test_haiku_modules_are_recorded_under_jit() -> None:
    jax, hk = pytest.importorskip("jax"), pytest.importorskip("haiku")

    def net(x: object) -> object:
        for layer in range(2):
            x = hk.Linear(3, name=f"layer_{layer}")(x)
        return x

    names = ["layer_{layer}", "layer_1(0)"]
    plain, watched = hk.transform(net), hk.transform(with_modules(net, names))
    x = np.ones((2, 3), np.float32)
    weights = plain.init(jax.random.PRNGKey(0), x)
    result, recorded = jax.jit(watched.apply)(weights, None, x)
    assert set(recorded) == {"layer_0", "layer_1", "layer_1(0)"}
    np.testing.assert_array_equal(recorded["layer_1"], result)
    np.testing.assert_array_equal(recorded["layer_1(0)"], recorded["layer_0"])
    with pytest.raises(ValueError, match="layer_2: no module has this path"):
        hk.transform(with_modules(net, ["layer_2"])).apply(weights, None, x)


def test_what_flax_captured_is_read_by_name() -> None:
    def layer(value: float) -> dict[str, object]:
        return {"__call__": (np.full(3, value),), "dense": {"__call__": (np.full(3, -value),)}}

    captured = {"layer_0": layer(1), "layer_1": layer(2), "head": {"__call__": (np.zeros(1), np.ones(1))}}
    recorded = from_intermediates(captured, ["layer_{layer}/dense"])
    assert {name: float(value[0]) for name, value in recorded.items()} == {"layer_0/dense": -1, "layer_1/dense": -2}
    with pytest.raises(ValueError, match="head: called 2 times"):
        from_intermediates(captured, ["head"])


class Outputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.net(x)
        return {"logits": y, "hidden_states": (x, y)}


def test_outputs_in_a_dictionary_are_picked_by_their_keys_those_of_the_model_itself_without_a_path() -> None:
    model = Outputs()
    record = attach(model, ["[logits]", "[hidden_states][0]"])
    with record() as recorded:
        run(model)
    np.testing.assert_array_equal(recorded["[hidden_states][0]"], np.ones((2, 3)))
    np.testing.assert_array_equal(recorded["[logits]"], 4 * np.ones((2, 3)))
    whole = attach(model, ["net(0)", "[hidden_states]"])
    with (
        pytest.raises(ValueError, match=r"\[hidden_states\]: gives 2 values; pick one, as \[hidden_states\]\[0\]"),
        whole(),
    ):
        run(model)
