"""JSON that a faulty writer wrote is refused in a line that names it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.golden.manifest import MANIFEST_DIGEST, NOISE
from tests.harness.golden.spoilt import edit_json, refused
from tests.harness.tiny_golden import DECODE, PREFILL


def test_future_format_is_told_from_a_broken_manifest(golden: Path) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest.update(format=2, presets=None, novelty=[]))
    assert f"{golden / MANIFEST}: format 2, expected 1: use the harness of that format" in refused(golden)


CASE_JSON, CONFIG_JSON = f"cases/{DECODE.id}/case.json", "presets/dense/config.json"

BREACHES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "no suite": (MANIFEST, lambda data: data.pop("suite")),
    "unknown key": (MANIFEST, lambda data: data.update(novelty=1)),
    "format as a string": (MANIFEST, lambda data: data.update(format="1")),
    "version as a number": (MANIFEST, lambda data: data["provenance"]["toolchain"].update(numpy=2)),
    "unprintable key": (MANIFEST, lambda data: data["provenance"]["toolchain"].update({"two\nlines": 2})),
    "no digest": (MANIFEST, lambda data: data["presets"]["dense"].update(config="12")),
    "no digest of the noise model": (MANIFEST, lambda data: data.pop("noise")),
    "unknown parameter": (NOISE, lambda data: data["parameters"].update(novelty="1")),
    "parameter as a number": (NOISE, lambda data: data["parameters"].update(false_alarm_rate=0.001)),
    "no validation": (NOISE, lambda data: data.pop("validation")),
    "statistic left out": (NOISE, lambda data: data["validation"]["worst"]["logits"]["float32"].pop("bulk")),
    "no reason": (CASE_JSON, lambda data: data.pop("why")),
    "unknown key of a case": (CASE_JSON, lambda data: data.update(novelty=1)),
    "preload as a number": (CASE_JSON, lambda data: data.update(preload=1)),
    "unknown kind of call": (CASE_JSON, lambda data: data["calls"].append({"kind": "forward"})),
    "no calls": (CASE_JSON, lambda data: data.update(calls=[])),
    "size as a string": (CONFIG_JSON, lambda data: data.update(vocab_size="7")),
    "decimal comma": (CONFIG_JSON, lambda data: data.update(output_multiplier_scale="0,5")),
    "real as a number": (CONFIG_JSON, lambda data: data.update(output_multiplier_scale=0.5)),
    "no layers": (CONFIG_JSON, lambda data: data["model"].update(num_layers=0)),
    "true for a number": (CONFIG_JSON, lambda data: data["model"].update(num_layers=True)),
    "no data axis": (CONFIG_JSON, lambda data: data["model"].pop("data_axis")),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_json_that_breaks_its_schema_is_named(golden: Path, breach: str) -> None:
    name, change = BREACHES[breach]
    edit_json(golden, name, change)
    message = refused(golden)
    assert f"{golden / name}: " in message
    assert ".schema.json)" in message


@pytest.mark.parametrize(
    "text",
    [b'{"format": 1, "format": 1}', b'{"format": NaN}', b"[1]", b"\xff", b"[" * 100_000, b'{"format": 1}'],
    ids=str,
)
def test_malformed_manifest_is_named(golden: Path, text: bytes) -> None:
    (golden / MANIFEST).write_bytes(text)
    assert str(golden / MANIFEST) in refused(golden)


@pytest.mark.parametrize("name", [MANIFEST, f"cases/{DECODE.id}/case.json"])
def test_enormous_json_is_refused_unread(golden: Path, name: str) -> None:
    os.truncate(golden / name, 2**35)  # sparse
    assert f"{golden / name}: larger than " in refused(golden)


def test_duplicate_key_is_named(golden: Path) -> None:
    text = (golden / MANIFEST).read_text()
    (golden / MANIFEST).write_text(text.replace('"format": 1,', '"format": 1, "format": 1,'))
    assert "key 'format' is given twice" in refused(golden)


def test_manifest_edited_without_its_digest_is_found(golden: Path) -> None:
    text = (golden / MANIFEST).read_text()
    (golden / MANIFEST).write_text(text.replace('"numpy": "2.0"', '"numpy": "2.1"'))
    assert f"altered: its sha256 is not the one in {MANIFEST_DIGEST}" in refused(golden)


@pytest.mark.parametrize(
    ("key", "value", "described"),
    [("id", "quantised/decode/other", "quantised/decode/other of preset quantised"), ("preset", "dense", "dense")],
)
def test_case_that_describes_another_is_found(golden: Path, key: str, value: str, described: str) -> None:
    edit_json(golden, f"cases/{DECODE.id}/case.json", lambda data: data.update({key: value}))
    assert f"{described}, expected {DECODE.id}" in refused(golden)


def test_inputs_that_do_not_belong_to_the_calls_are_found(golden: Path) -> None:
    edit_json(golden, f"cases/{DECODE.id}/case.json", lambda data: data.update(preload=False))
    assert "tensor 'preload/keys' (and 2 more) is not expected there" in refused(golden)


def test_case_without_its_preset_is_found(golden: Path) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest["presets"].pop("dense"))
    assert f"case {PREFILL.id}: its preset is not in the set" in refused(golden)
