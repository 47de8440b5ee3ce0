"""How long an adapter is: its lines besides imports, docstrings and what is said of it."""

from __future__ import annotations

import ast

from grok_conformance.harness.running.registry import CANDIDATES_DIR


def num_lines(candidate: str) -> int:
    """Return how many lines of a built-in candidate's module are neither blank, nor imports, nor docstrings."""
    source = (CANDIDATES_DIR / candidate / "__init__.py").read_text()
    besides: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and (is_text or isinstance(node, ast.Import | ast.ImportFrom)):
            besides |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(bool(line.strip()) and i not in besides for i, line in enumerate(source.splitlines(), 1))
