"""Mutants of a module: its syntax tree with one small fault, as a tired programmer would make it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "maximum": "minimum",
         "minimum": "maximum", "mean": "sum", "zeros": "ones"}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module with one fault: its line and the code there, what stood in its place and what stands there now."""

    line: int
    code: str
    before: str
    after: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module; what decides nothing (annotations, docstrings, decorators) is left alone."""
    tree, lines = ast.parse(source), source.splitlines()
    inert = set(map(id, inert_nodes(tree)))
    nodes = list(ast.walk(tree))
    for i, node in enumerate(nodes):
        if id(node) in inert:
            continue
        for changed in variants(node):
            mutated = copy.deepcopy(tree)
            place = list(ast.walk(mutated))[i]
            replace(mutated, place, changed)
            ast.fix_missing_locations(mutated)
            line = getattr(node, "lineno", 1)
            yield Mutant(line, lines[line - 1].strip(), ast.unparse(node), ast.unparse(changed), mutated)


def inert_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes of annotations, docstrings and decorators."""
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", [])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts.append(node.value)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            parts.append(node)
        for part in parts:
            if part is not None:
                yield from ast.walk(part)


def variants(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901 - one branch per kind of fault
    """Yield the small faults that one node may have."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield changed(node, ops=[other()])
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            yield changed(node, op=OPERATORS[type(operator)]())
        case ast.BoolOp(op=operator):
            yield changed(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield copy.deepcopy(node.operand)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)) | ast.Constant(value=float(value)):
            yield ast.Constant(value + 1)
        case ast.IfExp():
            yield changed(node, body=node.orelse, orelse=node.body)
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Attribute(attr=name) if name in NAMES:
            yield changed(node, attr=NAMES[name])
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case _:
            return


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with other fields."""
    twin = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(twin, name, copy.deepcopy(value))
    return twin


def replace(tree: ast.Module, place: ast.AST, new: ast.AST) -> None:
    """Put a node into the place of another."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is place:
                setattr(parent, name, new)
            elif isinstance(value, list):
                setattr(parent, name, [new if item is place else item for item in value])
