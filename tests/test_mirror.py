"""Every module of the harness and of the reference has its tests at the mirrored path."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for top in ("harness", "reference") for path in (ROOT / top).rglob("*.py"))


def path_of_tests(module: Path) -> Path:
    """Return where the tests of a module lie; those of a package's own page are its modules' tests."""
    name = module.stem.strip("_")
    return ROOT / "tests" / module.relative_to(ROOT).parent / f"test_{name}.py"


def test_every_module_has_its_tests_at_the_mirrored_path() -> None:
    lonely = [path for path in MODULES if path.stem != "__init__" and not path_of_tests(path).is_file()]
    assert [str(path.relative_to(ROOT)) for path in lonely] == []


def test_each_of_them_holds_tests() -> None:
    files = [path_of_tests(path) for path in MODULES if path.stem != "__init__"]
    assert [str(path) for path in files if path.is_file() and "\ndef test_" not in path.read_text()] == []


def test_a_command_s_tests_lie_beside_its_module_s() -> None:
    assert path_of_tests(ROOT / "harness" / "__main__.py") == ROOT / "tests" / "harness" / "test_main.py"
    assert (
        path_of_tests(ROOT / "harness" / "measure" / "scan.py")
        == ROOT / "tests" / "harness" / "measure" / "test_scan.py"
    )
