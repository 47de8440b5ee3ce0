"""Mutants of a module: its syntax tree with one small fault, as a tired programmer would make it."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Collection, Iterator
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


MODULE = "module"  # the part that holds what stands in no function and no class


@dataclass(frozen=True)
class Mutant:
    """A module with one fault: the part it is in, the code there, what stood in its place and what stands there now."""

    part: str
    code: str
    before: str
    after: str
    tree: ast.Module


def mutants(source: str, wanted: Collection[str] | None = None) -> Iterator[Mutant]:
    """Yield every mutant of a module, or of the wanted parts of it."""
    tree = ast.parse(source)
    for i, node, part, statement in places(tree):
        for changed in variants(node) if wanted is None or part in wanted else ():
            mutated = copy.deepcopy(tree)
            replace(mutated, list(ast.walk(mutated))[i], changed)
            ast.fix_missing_locations(mutated)
            code = ast.unparse(statement).splitlines()[0]
            yield Mutant(part, code, ast.unparse(node), ast.unparse(changed), mutated)


def num_mutants(source: str) -> dict[str, int]:
    """Return how many mutants each part of a module has."""
    tree = ast.parse(source)
    counts = dict.fromkeys(parts(tree), 0)
    for _, node, part, _ in places(tree):
        counts[part] += sum(1 for _ in variants(node))
    return counts


def parts(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the statements of each part: a function, a method, a class without its methods, and the module's own."""
    found: dict[str, list[ast.stmt]] = {MODULE: []}
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name):
                found[name] = [statement]
            case ast.ClassDef(name=name, body=body):
                methods = [each for each in body if isinstance(each, ast.FunctionDef)]
                found[name] = [each for each in body if each not in methods]
                found |= {f"{name}.{each.name}": [each] for each in methods}
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                found[MODULE].append(statement)
    return found


def digests(source: str) -> dict[str, str]:
    """Return a digest of the code of each part, which comments, docstrings and the place in the file do not change."""
    return {
        name: hashlib.sha256(repr([canonical(each) for each in statements]).encode()).hexdigest()[:16]
        for name, statements in parts(ast.parse(source)).items()
    }


def canonical(node: object) -> object:
    """Return what a node says, alike in every version of Python: its kind and its fields that say something."""
    if isinstance(node, list):
        return [canonical(each) for each in node if not is_docstring(each)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, canonical(value)) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return type(node).__name__, fields


def is_docstring(node: object) -> bool:
    """Return whether a statement is a text by itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def places(tree: ast.Module) -> Iterator[tuple[int, ast.AST, str, ast.stmt]]:
    """Yield each node that decides something, by its index in a walk, with its part and its innermost statement."""
    inert = set(map(id, inert_nodes(tree)))
    homes: dict[int, tuple[str, ast.stmt]] = {}
    for part, statements in parts(tree).items():
        for statement in statements:
            for inner in ast.walk(statement):  # outer statements come first, so that the innermost one is kept
                if isinstance(inner, ast.stmt):
                    homes |= {id(node): (part, inner) for node in ast.walk(inner)}
    for i, node in enumerate(ast.walk(tree)):
        if id(node) not in inert and id(node) in homes:
            yield i, node, *homes[id(node)]


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
