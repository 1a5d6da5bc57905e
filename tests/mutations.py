"""Mutations: the small faults that can be put into a source file, and a balanced sample of them."""

import ast
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1] / "pgjax"


class Mutant(NamedTuple):
    """One change of one file of pgjax.

    Attributes:
        path: of the file, within pgjax.
        line: where it changes.
        function: the qualified name of the function around it, "<module>" if none.
        kind: of the mutation.
        old: the source that goes.
        new: what stands in its place.
        span: of the old source, in bytes.
    """

    path: str
    line: int
    function: str
    kind: str
    old: str
    new: str
    span: tuple[int, int]

    @property
    def name(self) -> str:
        """What it is called, on whatever line it stands."""
        return f"{self.path}:{self.function}: {self.old} -> {self.new}"

    def source(self) -> bytes:
        """The file with the change."""
        source, (start, end) = (PACKAGE / self.path).read_bytes(), self.span
        return source[:start] + self.new.encode() + source[end:]


COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},
}
FUNCTIONS = ast.FunctionDef, ast.Lambda
ORDERS = ast.Lt, ast.LtE, ast.Gt, ast.GtE
OPERATORS = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
}
PAIRS = (
    "minimum maximum, min max, any all, sum mean, ones zeros, ceil floor, argmin argmax, exp log"
)
NAMES = {
    one: other
    for pair in PAIRS.split(", ")
    for one, other in (pair.split(), reversed(pair.split()))
}


def mutants_of(path: str) -> list[Mutant]:
    """Every mutant of a file of pgjax, in the order of the source; of equal ones the first."""
    source = (PACKAGE / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[str, Mutant] = {}
    for node, function, parents in _places(ast.parse(source), "<module>", ()):
        end = starts[node.end_lineno - 1] + node.end_col_offset
        span = starts[node.lineno - 1] + node.col_offset, end
        old = ast.unparse(node)
        for kind, new in _changes(node, parents):
            if new != old:
                mutant = Mutant(path, node.lineno, function, kind, old, new, span)
                found.setdefault(mutant.name, mutant)
    return list(found.values())


def sample(paths: Sequence[Sequence[str]], seed: int) -> Iterator[Mutant]:
    """All mutants of some areas of files: by turns of the areas, of their files, of the kinds."""
    draw = random.Random(seed)

    def shuffled(items: Iterable[Any]) -> list[Any]:
        return draw.sample(list(items), len(list(items)))

    def of_file(path: str) -> Iterator[Mutant]:
        kinds: dict[str, list[Mutant]] = {}
        for mutant in shuffled(mutants_of(path)):
            kinds.setdefault(mutant.kind, []).append(mutant)
        return _by_turns(kinds.values())

    return _by_turns([_by_turns([of_file(path) for path in shuffled(area)]) for area in paths])


def _by_turns(rows: Iterable[Iterable[Any]]) -> Iterator[Any]:
    return (x for turn in zip_longest(*rows) for x in turn if x is not None)


def _places(
    node: ast.AST, function: str, parents: tuple[ast.AST, ...]
) -> Iterator[tuple[Any, str, tuple[ast.AST, ...]]]:
    """Every expression and statement that computes: no message, annotation or decorator."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.arg, ast.Import, ast.ImportFrom)):
        return
    if isinstance(node, (ast.expr, ast.stmt)):
        yield node, function, parents
    inside = function
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        outer = {"<module>": ""}.get(function, f"{function}.")
        local = "<locals>." if parents and isinstance(parents[-1], ast.FunctionDef) else ""
        inside = f"{outer}{local}{node.name}"
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _places(child, inside, (*parents, node))


def _changes(node: Any, parents: tuple[ast.AST, ...]) -> Iterator[tuple[str, str]]:
    """The kind of each mutation of a node, and the new source."""

    def whole(expression: ast.expr) -> str:
        return f"({ast.unparse(expression)})"

    match node:
        case ast.Compare(left, ops, comparators):
            for index, op in enumerate(ops):
                changed = [*ops[:index], COMPARISONS[type(op)](), *ops[index + 1 :]]
                yield "comparison", ast.unparse(ast.Compare(left, changed, comparators))
        case ast.BinOp(_, ast.BitOr(), _) if not any(isinstance(x, FUNCTIONS) for x in parents):
            pass  # a union of types
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            kind = "boolean" if isinstance(op, (ast.BitAnd, ast.BitOr)) else "arithmetic"
            yield kind, ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right))
            yield "operand dropped", whole(left)
            if isinstance(op, (ast.Mult, ast.Add)):
                yield "operand dropped", whole(right)
        case ast.BoolOp(op, values):
            yield "boolean", ast.unparse(ast.BoolOp(OPERATORS[type(op)](), values))
        case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
            yield "boolean", whole(operand)
        case ast.UnaryOp(ast.USub(), operand):
            yield "arithmetic", whole(operand)
        case ast.Constant(bool(value)):
            yield "boolean", str(not value)
        case ast.Constant(int(value) | float(value)):
            axis = isinstance(parents[-1], ast.keyword) and "ax" in (parents[-1].arg or "")
            cut = any(isinstance(parent, ast.Slice) for parent in parents[-2:])
            kind = "axis" if axis else "slice" if cut else "constant"
            yield kind, repr(value + 1)
            if isinstance(value, int) and not axis:
                yield kind, repr(value - 1)
        case ast.IfExp(test, body, orelse):
            yield "condition", ast.unparse(ast.IfExp(test, orelse, body))
        case ast.Expr(ast.Call()):
            yield "statement dropped", "pass"
        case ast.Call(function, arguments, keywords):
            called = ast.unparse(function).rpartition(".")
            if called[2] == "where" and len(arguments) == 3:
                test, one, other = arguments
                yield "where", ast.unparse(ast.Call(function, [test, other, one], keywords))
                yield "where", whole(one)
            if called[2] == "stop_gradient":
                yield "stop_gradient", whole(arguments[0])
            if called[2] in NAMES:
                name = ast.parse("".join([*called[:2], NAMES[called[2]]]), mode="eval").body
                yield "function", ast.unparse(ast.Call(name, arguments, keywords))
    decides = parents and isinstance(parents[-1], (ast.If, ast.While)) and node is parents[-1].test
    has_opposite = isinstance(node, ast.Compare) and type(node.ops[0]) not in ORDERS
    if decides and not has_opposite and not isinstance(node, ast.UnaryOp):
        yield "condition", f"(not ({ast.unparse(node)}))"
