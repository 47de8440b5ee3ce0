"""Eight virtual CPU devices for the sharded tests, hypothesis profiles, and `--thorough`."""

from __future__ import annotations

import os

import hypothesis
import pytest

# Read by JAX when it is first used, hence before any test imports it.
DEVICES = "--xla_force_host_platform_device_count=8"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="draw many more examples in the property tests")
    parser.addoption("--write-kills", action="store_true", help="write tests/properties/KILLS.md")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "quick")
