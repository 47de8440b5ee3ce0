"""Text between two markers of a document, which a session writes and nobody else."""

from __future__ import annotations

from pathlib import Path

from grok_conformance.harness.formats.files import whole_file

README = Path(__file__).resolve().parents[1] / "README.md"


def write_block(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marker lines of a file; raises SystemExit if it has none."""
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path}: has no lines {begin!r} and {end!r}: add them where the text belongs")
    with whole_file(path) as file:
        file.write(f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())
