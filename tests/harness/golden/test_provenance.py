from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.golden import provenance
from grok_conformance.harness.golden.manifest import Manifest, write_manifest
from grok_conformance.harness.golden.provenance import record_platform, record_provenance, record_toolchain


def test_toolchain_names_the_running_versions() -> None:
    toolchain = record_toolchain()
    assert toolchain["python"] == ".".join(map(str, sys.version_info[:3]))
    assert toolchain["numpy"] == np.__version__


def test_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "TOOLCHAIN", ("no-such-distribution",))
    assert record_toolchain()["no-such-distribution"] == "none"


def test_platform_tells_the_features_that_change_sums_and_no_others(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "model name\t: A CPU\nflags\t\t: fpu avx2 vme avx512_bf16 fma f16c\n\nmodel name\t: B\nflags\t: sve\n"
    )
    facts = record_platform(cpuinfo)
    assert facts["cpu"] == "A CPU"
    assert facts["cpu_features"] == "avx2 avx512_bf16 f16c fma"


def test_features_of_an_arm_cpu_are_told(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimdhp sve bf16\n")
    assert record_platform(cpuinfo)["cpu_features"] == "asimd asimdhp bf16 sve"


def test_system_without_cpuinfo_is_recorded_all_the_same(tmp_path: Path) -> None:
    assert record_platform(tmp_path / "none")["cpu_features"] == ""


def test_compiler_flags_and_threads_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    facts = record_platform()
    assert facts["xla_flags"] == "--xla_force_host_platform_device_count=8"
    assert int(facts["threads"]) >= 1


def test_record_fits_the_manifest(tmp_path: Path) -> None:
    record = record_provenance("SPEC 1", {"matmul": "highest"})
    write_manifest(tmp_path, Manifest("1.0.0", record, "0" * 64, {}, {}))
    assert record.generator.startswith("grok-conformance ")


def test_recording_imports_no_engine() -> None:
    program = "import sys, grok_conformance.harness.golden.provenance as p; "
    program += "p.record_toolchain(); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - our own program
