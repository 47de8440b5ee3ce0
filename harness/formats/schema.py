"""JSON checked against the schemas in `golden/schema/`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastjsonschema

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import read_json

MAX_DETAIL = 300


def validate(value: Any, schema: str) -> None:
    """Check parsed JSON against `golden/schema/{schema}.schema.json`; raises ValueError of one short line."""
    validate_by(value, GOLDEN_DIR / "schema" / f"{schema}.schema.json")


def validate_by(value: Any, schema: Path) -> None:
    """Check parsed JSON against the schema in a file of our own; raises ValueError of one short line."""
    try:
        _validator(schema)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        detail = error.message.encode("unicode_escape").decode()
        raise ValueError(f"{detail[:MAX_DETAIL]} ({schema.name})") from None


@functools.cache
def _validator(schema: Path) -> Callable[[Any], Any]:
    validator: Callable[[Any], Any] = fastjsonschema.compile(read_json(schema))
    return validator
