"""A large capture is whole or resumed, written by one process at a time, and never loses what was finished."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import canonical, store
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.forms import reduce_tap, summary_key
from grok_conformance.harness.large.sketch import project
from tests.harness.large import tiny_capture
from tests.harness.large.tiny_capture import make_plan

STAGES = ("embedding", "layers.00", "layers.01", "layers.02", "logits")


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "run", tiny_capture.run)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, bytes]:
    capture(tmp_path / "uninterrupted", make_plan(), tmp_path)
    return files(tmp_path / "uninterrupted")


def test_a_capture_holds_every_stage_and_no_state(uninterrupted: dict[str, bytes]) -> None:
    assert set(uninterrupted) == {
        ".lock",
        "manifest.json",
        "plan.json",
        *(f"{stage}.{kind}" for stage in STAGES for kind in ("json", "safetensors")),
    }


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[str]:
    """Let the write number `at` of a capture fail; the list fills with what is written."""
    written: list[str] = []

    def wrap(write: Any) -> Any:
        def call(path: Path, value: Any) -> None:
            written.append(path.name)
            if len(written) == at + 1:
                raise error
            write(path, value)

        return call

    for name in ("write_tensors", "write_json"):
        monkeypatch.setattr(store, name, wrap(getattr(store, name)))
    return written


@pytest.mark.parametrize("at", range(16))
def test_a_full_disk_leaves_what_was_there_and_the_rest_follows_when_there_is_room(
    at: int, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "capture"
    with monkeypatch.context() as patch:
        interrupt(patch, at, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(FileError, match="No space left on device; finished layers stay"):
            capture(folder, make_plan(), tmp_path)
    left = files(folder)
    assert all(content == uninterrupted[name] for name, content in left.items() if not name.startswith(".carry"))
    with monkeypatch.context() as patch:
        written = interrupt(patch, 1000, OSError())
        capture(folder, make_plan(), tmp_path)
    assert files(folder) == uninterrupted
    finished = {name for name in left if name.endswith(".json")} & {f"{stage}.json" for stage in STAGES}
    assert not finished & set(written)


@pytest.mark.parametrize("name", ["layers.01.safetensors", "layers.01.json", "embedding.safetensors"])
def test_a_damaged_stage_is_made_again(
    name: str, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "capture"
    with monkeypatch.context() as patch:
        interrupt(patch, 12, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(FileError):
            capture(folder, make_plan(), tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)
    capture(folder, make_plan(), tmp_path)
    assert files(folder) == uninterrupted


def test_a_lost_state_begins_again_rather_than_going_on_from_nothing(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "capture"
    with monkeypatch.context() as patch:
        interrupt(patch, 9, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(FileError):
            capture(folder, make_plan(), tmp_path)
    for path in folder.glob(".carry.*"):
        path.unlink()
    capture(folder, make_plan(), tmp_path)
    assert files(folder) == uninterrupted


def test_a_complete_capture_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = capture(tmp_path / "capture", make_plan(), tmp_path)

    def run(*_: Any) -> Iterator[Any]:
        raise AssertionError

    monkeypatch.setattr(canonical, "run", run)
    assert capture(tmp_path / "capture", make_plan(), tmp_path) == first


def test_another_capture_into_the_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    capture(tmp_path / "capture", make_plan(), tmp_path)
    before = files(tmp_path / "capture")
    with pytest.raises(FileError, match="a capture with another form, seed"):
        capture(tmp_path / "capture", make_plan(form="sketch", seed=1), tmp_path)
    assert files(tmp_path / "capture") == before


def test_of_two_captures_into_one_folder_the_second_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    folder.mkdir()
    with (folder / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="another capture is writing there"):
            capture(folder, make_plan(), tmp_path)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    capture(folder, make_plan(), tmp_path)


def test_an_altered_record_is_found_by_the_manifest(tmp_path: Path) -> None:
    capture(tmp_path, make_plan(), tmp_path)
    (tmp_path / "layers.02.json").write_text((tmp_path / "layers.02.json").read_text() + "\n")
    with pytest.raises(FileError, match=r"layers\.02\.json: missing or altered"):
        store.read_manifest(tmp_path)


def test_rows_keep_chosen_positions_and_all_keys(tmp_path: Path) -> None:
    plan = make_plan(form="rows")
    capture(tmp_path, plan, tmp_path)
    kept = store.read_stage(tmp_path, "layers.01")
    made = tiny_capture.taps_of(plan, "layers.01", 0)
    for tap, axis in (("layers.01.attention.logits", 3), ("layers.01.moe.expert_up", 1)):
        np.testing.assert_array_equal(kept[f"call0/{tap}"], np.take(made[tap], [0, 2], axis))
    np.testing.assert_array_equal(kept["call0/layers.01.kv.keys"], made["layers.01.kv.keys"])
    assert kept["call1/layers.01.moe.norm"].shape == (2, 1, 40)


def test_a_sketch_keeps_a_projection_and_a_summary_of_every_token() -> None:
    plan = make_plan(form="sketch", seed=5)
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 8)).astype(np.float32)
    x[1, 2, 0, 0] = np.nan
    kept = reduce_tap(plan, 0, "layers.00.attention.query", x)
    tokens = np.nan_to_num(x.reshape(8, 24).astype(np.float64))
    np.testing.assert_array_equal(kept["call0/layers.00.attention.query"].reshape(8, -1), project(tokens, 5))
    summary = kept[summary_key("call0/layers.00.attention.query")].reshape(8, 4)
    columns = [np.sqrt((tokens**2).sum(-1)), abs(tokens).max(-1), tokens.sum(-1), [24] * 6 + [23, 24]]
    np.testing.assert_allclose(summary, np.stack(columns, -1))


def test_small_taps_are_kept_whole_in_every_form() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    for form in ("full", "rows", "sketch"):
        kept = reduce_tap(make_plan(form=form), 0, "layers.00.router.logits", x)
        np.testing.assert_array_equal(kept["call0/layers.00.router.logits"], x)
