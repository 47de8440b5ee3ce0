from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import read_json
from grok_conformance.harness.formats.schema import MAX_DETAIL, validate
from grok_conformance.harness.golden.manifest import PRESET_NAME
from tests.harness.tiny_golden import CONFIG

SCHEMAS = sorted((GOLDEN_DIR / "schema").glob("*.schema.json"))
OPEN = {"cases", "facts", "presets", "tensors"}
OPEN |= {"fences", "flushes_subnormals", "functions", "measured", "tail_factor", "worst"}  # of noise.json
"""Objects whose keys are names given by the writer; every other object lists its keys."""

OPTIONAL = {"tie_rule"}
"""Keys that may be left out: golden/README.md says so."""


def objects(name: str, schema: Any) -> list[tuple[str, Any]]:
    """Return every schema of an object inside a schema, with the key under which it stands."""
    if isinstance(schema, list):
        return [found for item in schema for found in objects(name, item)]
    if not isinstance(schema, dict):
        return []
    here = [(name, schema)] if schema.get("type") == "object" else []
    return here + [found for key, item in schema.items() for found in objects(key, item)]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_every_object_of_every_schema_refuses_unknown_keys_and_requires_all_known_ones(path: Path) -> None:
    closed = [schema for name, schema in objects("", read_json(path)) if name not in OPEN]
    assert closed
    for schema in closed:
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"]) - OPTIONAL


def test_schemas_and_writer_agree_on_the_names_of_presets() -> None:
    manifest, case = (read_json(GOLDEN_DIR / "schema" / f"{name}.schema.json") for name in ("manifest", "case"))
    pattern = f"^{PRESET_NAME.pattern}$"
    assert manifest["properties"]["presets"]["propertyNames"]["pattern"] == pattern
    assert case["properties"]["preset"]["pattern"] == pattern
    assert manifest["properties"]["cases"]["propertyNames"]["pattern"] == case["properties"]["id"]["pattern"]


@pytest.mark.parametrize("key", ["two\nlines", "é\x00", "long" * MAX_DETAIL], ids=["newline", "nul", "long"])
def test_message_is_one_short_line_whatever_the_keys(key: str) -> None:
    with pytest.raises(ValueError, match=r"\(preset.schema.json\)") as caught:
        validate({**CONFIG.to_json(), key: 1}, "preset")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2 * MAX_DETAIL
