from __future__ import annotations

from pathlib import Path

import pytest

from tests.written_block import write_block


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    write_block(page, "<!-- a -->", "<!-- b -->", "new")
    assert page.read_text() == "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter\n"


def test_a_page_without_the_markers_is_left_alone_and_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- b -->\n<!-- a -->\n")
    with pytest.raises(SystemExit, match="has no lines '<!-- a -->' and '<!-- b -->'"):
        write_block(page, "<!-- a -->", "<!-- b -->", "new")
    assert page.read_text() == "<!-- b -->\n<!-- a -->\n"
