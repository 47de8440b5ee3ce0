"""The documents hold what they say: links lead somewhere, Python compiles, commands are understood."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import command_line

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("candidates", "golden", "harness", "reference", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for name in ("docs", *FOLDERS) for path in (ROOT / name).rglob("*.md"))])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
PROGRAMS = (("python", "-m", "grok_conformance"), ("grok-conformance",), ("nox", "-s", "conformance", "--"))


def blocks(text: str, *languages: str) -> list[str]:
    return [content for language, content in BLOCK.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command line in the shell blocks, one for each side of `&&`."""
    for block in blocks(text, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield words


def sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}


def understood(words: list[str]) -> bool:
    """Return whether the real parser takes a command line of ours; others are not asked."""
    for program in PROGRAMS:
        if tuple(words[: len(program)]) == program:
            arguments = words[len(program) :]
            if program[0] == "nox":
                arguments = ["run", *arguments]
            try:
                command_line(arguments).parse_args(arguments)
            except SystemExit:
                return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    links = [link for link in LINK.findall((ROOT / name).read_text()) if "://" not in link]
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_path_in_the_text_exists(name: str) -> None:
    found = PATH.findall((ROOT / name).read_text())
    assert [path for path in found if path.upper() != path and not (ROOT / path).exists() and "NAME" not in path] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles(name: str) -> None:
    for block in blocks((ROOT / name).read_text(), "python"):
        ast.parse(block)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_understood(name: str) -> None:
    found = list(commands((ROOT / name).read_text()))
    assert [words for words in found if not understood(words)] == []
    asked = {word for words in found if words[:2] == ["nox", "-s"] for word in words[2 : [*words, "--"].index("--")]}
    assert asked <= sessions()


def test_what_is_not_so_is_seen(tmp_path: Path) -> None:
    assert not understood(["python", "-m", "grok_conformance", "run", "--candidates", "x"])
    assert not understood(["nox", "-s", "conformance", "--", "--cases", "x"])
    assert understood(["nox", "-s", "conformance", "--", "--case", "x"])
    assert list(commands("```sh\na b && c   # d\n```\n")) == [["a", "b"], ["c"]]
    assert PATH.findall("`harness/no_such.py` and `other/x`") == ["harness/no_such.py"]
    assert LINK.findall("[a](b.md#c) [d](https://e)") == ["b.md", "https://e"]
    assert not tmp_path.joinpath(LINK.findall("[a](b.md)")[0]).exists()


def test_the_documents_of_the_design_are_there_and_are_read() -> None:
    wanted = {"ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "golden/README.md", "harness/PROTOCOL.md"}
    assert {*wanted, "reference/SPEC.md"} <= set(NAMES)
    assert sum(len(list(commands((ROOT / name).read_text()))) for name in NAMES) > 10


def test_the_architecture_names_every_package_of_the_harness_and_every_word_that_a_docstring_cites() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert {name for name in packages if f"`{name}`" not in page} == set()
    words = set(re.findall(r"^\| ([\w ,]+) \|", page, re.MULTILINE))
    known = {each for word in words for each in word.split(", ")}
    cited = {
        word
        for path in (ROOT / "harness").rglob("*.py")
        for word in re.findall(r"\(ARCHITECTURE: ([\w ]+)\)", path.read_text())
    }
    assert len(cited) > 3
    assert cited - known == set()


NAMES_OF_OLD = "(?:harness|reference|candidates)"
OLD = re.compile(
    rf"from {NAMES_OF_OLD}(?:\.\w+)* import|(?:^|[;\"'] ?)import {NAMES_OF_OLD}\b"
    rf"|-m {NAMES_OF_OLD}\b|[\"']{NAMES_OF_OLD}\.\w+",
    re.MULTILINE,
)
PRODUCERS = ("harness.suite", "harness.large", "harness.probes")
"""What golden manifests say of who made them: data, which stays as it was written."""


def test_no_program_or_document_spells_an_import_without_the_one_name() -> None:
    paths = [ROOT / "noxfile.py", *DOCUMENTS, *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
    found = {
        f"{path.relative_to(ROOT)}: {spelt}"
        for path in paths
        for spelt in OLD.findall(path.read_text())
        if spelt[1:] not in PRODUCERS
        and not spelt.endswith((".toml", ".py", ".md"))
        and path != Path(__file__).resolve()
    }
    assert found == set()
    seen = OLD.findall("python -m harness run; from harness.graph import x; import harness; 'harness.graph.row'")
    assert len(seen) == 4
