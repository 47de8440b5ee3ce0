"""The local check of a large capture passes what is right, and finds a fault where it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import canonical, lock
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.check import Sample, check_stage, select_stages
from grok_conformance.harness.large.distance import distances
from grok_conformance.harness.large.plan import Plan, make_calls
from grok_conformance.harness.large.store import read_stage, write_stage
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.config import PRESETS
from tests.conformance import large_local

ALL_CHANNELS = Sample(fraction=1.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("checkpoint"), PRESETS["small"])


def make_plan(checkpoint: Path, form: str) -> Plan:
    plan = large_local.plan_of("small", checkpoint)
    tokens = np.stack([plan.calls[0].tokens[0, :8], plan.calls[0].tokens[0, 8:16]])
    config = replace(plan.config, sequence_len=8)
    return replace(plan, config=config, calls=make_calls(tokens, 1), form=form, rows=(0, 3, 6), num_layers=3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def captured(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Plan]]:
    """A prefill and a decode step of two prompts through the whole model, in every form."""
    made = {}
    for form in ("full", "rows", "sketch"):
        made[form] = tmp_path_factory.mktemp("captured") / form, make_plan(checkpoint, form)
        capture(*made[form], checkpoint)
    return made


def check(folder: Path, plan: Plan, checkpoint: Path, sample: Sample = ALL_CHANNELS) -> list[Comparison]:
    stored = canonical.CheckpointWeights(checkpoint, plan.config)
    return [c for stage in plan.stages for c in check_stage(folder, plan, stage, stored, sample)]


@pytest.mark.parametrize("form", ["full", "rows"])
def test_the_canonical_model_passes_at_every_tap(
    form: str, checkpoint: Path, captured: dict[str, tuple[Path, Plan]]
) -> None:
    plan = captured[form][1]
    found = check(*captured[form], checkpoint)
    assert len(found) == 2 * sum(len(plan.taps(stage)) for stage in plan.stages)
    assert [(c.tap, c.problem, c.ratio) for c in found if not c.passed] == []
    assert all(c.num_elements for c in found)


def test_a_sample_of_channels_judges_as_many_of_them(checkpoint: Path, captured: dict[str, tuple[Path, Plan]]) -> None:
    whole, part = (check(*captured["rows"], checkpoint, Sample(fraction)) for fraction in (1.0, 0.25))
    for all_of_them, some in zip(whole, part, strict=True):
        sampled = some.operation in ("moe.expert_activation", "moe.expert_up", "moe.expert_output", "logits")
        assert some.num_elements == all_of_them.num_elements / (4 if sampled else 1)


def altered(source: tuple[Path, Plan], folder: Path, name: str, change: Callable[[Array], None]) -> tuple[Path, Plan]:
    """Copy a capture with one tensor of layer 1 changed, its digests in order."""
    shutil.copytree(source[0], folder)
    (folder / "manifest.json").unlink()
    tensors = {key: np.array(x) for key, x in read_stage(folder, "layers.01").items()}
    change(tensors[name])
    write_stage(folder, "layers.01", "layers.00", tensors, [])
    return folder, source[1]


@pytest.mark.parametrize(
    ("operation", "index"),
    [
        ("attention.query_rotated", (1, 2, 0, 3)),
        ("attention.weights", (0, 1, 0, 1, 2)),
        ("kv.keys", (1, 3, 0, 2)),
        ("router.logits", (0, 3, 2)),
        ("moe.expert_output", (1, 2, 1, 40)),
        ("output", (0, 1, 17)),
    ],
)
def test_a_wrong_element_is_found_where_it_is(
    operation: str,
    index: tuple[int, ...],
    checkpoint: Path,
    captured: dict[str, tuple[Path, Plan]],
    tmp_path: Path,
) -> None:
    def change(x: Array) -> None:
        x[index] = 1.5 * x[index] + 1

    wrong = altered(captured["rows"], tmp_path / "wrong", f"call0/layers.01.{operation}", change)
    first = next(c for c in check(*wrong, checkpoint) if not c.passed)
    rows, slots = (0, 3, 6), operation.startswith(("kv.", "router."))
    place = list(index)
    axis = 3 if operation == "attention.weights" else 1
    place[axis] = index[axis] if slots else rows[index[axis]]
    assert (first.call, first.tap, first.index) == (0, f"layers.01.{operation}", tuple(place))


def test_an_earlier_slot_that_changes_is_found(
    checkpoint: Path, captured: dict[str, tuple[Path, Plan]], tmp_path: Path
) -> None:
    def change(x: Array) -> None:
        x[0, 2, 0, 0] *= 2

    wrong = altered(captured["rows"], tmp_path / "wrong", "call1/layers.01.kv.values", change)
    problems = [c.problem for c in check(*wrong, checkpoint) if not c.passed]
    assert "a slot that an earlier call filled has changed" in problems


def test_sketches_are_not_judged_operation_by_operation(
    checkpoint: Path, captured: dict[str, tuple[Path, Plan]]
) -> None:
    with pytest.raises(FileError, match="capture rows or full"):
        check(*captured["sketch"], checkpoint)


@pytest.mark.parametrize("form", ["full", "rows", "sketch"])
def test_distances_are_none_to_itself_and_show_a_token_that_moved(
    form: str, captured: dict[str, tuple[Path, Plan]], tmp_path: Path
) -> None:
    name = "layers.01.moe.expert_output"

    def change(x: Array) -> None:
        x[1, 2] *= 1.25

    moved = altered(captured[form], tmp_path / "moved", f"call0/{name}", change)
    same = list(distances(captured[form], captured[form], "layers.01"))
    assert max(d.relative for d in same) == max(d.norm for d in same) == 0
    found = {(d.call, d.tap): d for d in distances(moved, captured[form], "layers.01")}
    assert found[0, name].relative == pytest.approx(0.25)
    assert found[0, name].index == (1, 2)


def test_captures_of_different_forms_are_not_compared(captured: dict[str, tuple[Path, Plan]]) -> None:
    with pytest.raises(FileError, match="another form"):
        next(distances(captured["rows"], captured["full"], "layers.01"))


def test_a_golden_of_another_platform_is_told_with_the_distance_and_nothing_changes(
    captured: dict[str, tuple[Path, Plan]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plan = captured["rows"]
    golden = Path(shutil.copytree(folder, tmp_path / "golden"))
    manifest = json.loads((golden / "manifest.json").read_text())
    manifest["provenance"]["platform"] |= {"device": "NVIDIA H100", "device_version": "cuda 13"}
    (golden / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["check-large", str(folder), "--against", str(golden), "--layers", "0,2"]) == 0
    output = capsys.readouterr().out
    assert "different platform: device cpu, golden NVIDIA H100" in output
    assert len(re.findall(r"^\S+ +0 +norms +0 ", output, re.MULTILINE)) == len(plan.taps("layers.00"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_fault_in_one_expert_of_one_layer_is_found(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert large_local.main(["--config", "small", "--checkpoint", str(checkpoint)]) == 0
    assert "honest: pass; fault: found where it is" in capsys.readouterr().out


def test_a_layer_that_was_not_captured_is_named(captured: dict[str, tuple[Path, Plan]]) -> None:
    with pytest.raises(FileError, match=r"layers\.07: not captured"):
        select_stages(captured["rows"][1], [7])


def test_a_locked_golden_is_found_by_name_and_verified(
    captured: dict[str, tuple[Path, Plan]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = tmp_path / "large.lock.json", captured["rows"][0]
    lock.add("rows", folder, "made by the test", path)
    with pytest.raises(FileError, match="GROK_LARGE_GOLDEN"):
        lock.find("rows", path)
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(folder.parent))
    assert lock.find("rows", path) == folder
    with pytest.raises(FileError, match="another capture already"):
        lock.add("rows", captured["full"][0], "another", path)
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(FileError, match="missing, or not the capture"):
        lock.find("rows", path)
    with pytest.raises(FileError, match="neither a folder nor a name"):
        lock.find("unknown", path)


# The command.


def test_the_command_judges_a_capture_and_tells_every_operation_and_its_sample(
    checkpoint: Path, captured: dict[str, tuple[Path, Plan]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plan = captured["rows"]
    assert (
        main(["check-large", str(folder), "--checkpoint", str(checkpoint), "--layers", "1", "--fraction", "0.25"]) == 0
    )
    *operations, last = capsys.readouterr().out.splitlines()
    assert len(operations) == len(plan.taps("layers.01"))
    assert all(re.fullmatch(r"\S+ +pass  measured / allowed \S+", line) for line in operations)
    num_taps = 2 * len(operations)
    assert (
        last == f"{num_taps} taps, 0 beyond their fences; a sample of 0.25 of the experts' and logits' channels, seed 0"
    )


def test_the_command_fails_where_a_tap_is_wrong_and_names_the_element(
    checkpoint: Path,
    captured: dict[str, tuple[Path, Plan]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def change(x: Array) -> None:
        x[1, 2, 5] += 1

    folder, _ = altered(captured["rows"], tmp_path / "wrong", "call0/layers.01.moe.norm", change)
    assert main(["check-large", str(folder), "--checkpoint", str(checkpoint), "--layers", "1"]) == 1
    output = capsys.readouterr().out
    assert re.search(r"^moe\.norm +FAIL  measured / allowed ", output, re.MULTILINE)
    assert re.search(
        r"^call 0, layers\.01\.moe\.norm: \S+ times the fence at \[1, 6, 5\]: observed ", output, re.MULTILINE
    )


def test_the_command_without_weights_verifies_every_digest(
    captured: dict[str, tuple[Path, Plan]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(captured["rows"][0], tmp_path / "copy"))
    assert main(["check-large", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: every tensor of 5 stages has its digest\n"
    path = folder / "layers.01.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert main(["check-large", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_refuses_weights_that_are_not_those_captured(
    checkpoint: Path,
    captured: dict[str, tuple[Path, Plan]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(canonical, "checkpoint_digest", lambda _: "another")
    folder = captured["rows"][0]
    assert main(["check-large", str(folder), "--checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err == f"{checkpoint}: not the weights that {folder} was captured with\n"
