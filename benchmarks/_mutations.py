"""All small changes of a Python file that `mutants.py` draws from, made from its syntax tree.

Numbers and booleans (defaults included), operators, comparisons, conditions, calls, arguments, keywords and slices are
changed. Annotations are not, nor are strings: those of the mathematics are docstrings, messages and names. A mutation
replaces one stretch of the text, so every other line stays as it is.
"""

import ast
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import NamedTuple, TypeAlias

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_ORDERED: tuple[type[ast.operator], ...] = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {  # the other side of the boundary, and the opposite
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_PAIRS = [
    ("minimum", "maximum"),
    ("min", "max"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("sum", "mean"),
    ("floor", "ceil"),
    ("cos", "sin"),
    ("exp", "expm1"),
    ("log", "log1p"),
]
EQUIVALENT = "equivalent"
_NAMES = {**dict(_PAIRS), **{right: left for left, right in _PAIRS}}
_SYMMETRIC = {"minimum", "maximum", "min", "max", "logaddexp", "logical_and", "logical_or", "array_equal", "swapaxes"}

_Change: TypeAlias = tuple[ast.expr | ast.stmt, str, ast.AST | None, str]
"""A node, the kind of its change, its replacement (None: the node is removed), the enclosing top-level definition."""


class Mutation(NamedTuple):
    """One change of one file: the bytes from `begin` to `end` become `after`; `inside` is the definition around it."""

    file: str
    line: int
    begin: int
    end: int
    kind: str
    before: str
    after: str
    inside: str

    def applied(self, source: str) -> str:
        """The file's text with the change."""
        data = source.encode()
        return (data[: self.begin] + self.after.encode() + data[self.end :]).decode()


def mutations(file: str, source: str) -> list[Mutation]:
    """Every mutation of a file, in the order of its text."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, kind, after, inside in _walk(ast.parse(source)):
        assert node.end_lineno is not None, "a parsed node has its place"
        assert node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[begin:end].decode()
        text = "pass" if after is None else ast.unparse(ast.fix_missing_locations(after))
        if isinstance(after, ast.expr):
            text = f"({text})"
        found.append(Mutation(file, node.lineno, begin, end, kind, before, text, inside))
    return sorted(set(found))


def drawn(root: Path, files: list[str], *, count: int, seed: int) -> tuple[list[Mutation], int, int]:
    """Mutations drawn without replacement from all of the files.

    Returns:
      `count` mutations, how many there are in all, and how many drawn ones were passed over as equivalent: they compile
      to the original's bytecode, or swap what is symmetric.
    """
    sources = {file: (root / file).read_text() for file in files}
    every = [mutation for file in files for mutation in mutations(file, sources[file])]
    chosen, same = [], 0
    warnings.simplefilter("ignore", SyntaxWarning)  # which some of the changes cause
    for mutation in _shuffled(every, seed):
        if len(chosen) == count:
            break
        source = sources[mutation.file]
        if mutation.kind == EQUIVALENT or _equal(
            compile(source, "x", "exec"), compile(mutation.applied(source), "x", "exec")
        ):
            same += 1
        else:
            chosen.append(mutation)
    return chosen, len(every), same


def _shuffled(every: list[Mutation], seed: int) -> list[Mutation]:
    """The mutations in the order of a hash: a change of one function leaves the draw of the others as it was."""
    met, keyed = Counter(), []
    for mutation in every:
        what = (mutation.file, mutation.inside, mutation.kind, *mutation.before.split(), mutation.after)
        met[what] += 1
        keyed.append((hashlib.sha256(repr((seed, *what, met[what])).encode()).digest(), mutation))
    return [mutation for _, mutation in sorted(keyed)]


def _walk(tree: ast.AST, inside: str = "") -> Iterator[_Change]:
    """Yields every change of a tree."""
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }

    def visit(node: ast.AST, inside: str, *, squared: bool = False) -> Iterator[_Change]:
        if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = inside or node.name
        is_square = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and ast.unparse(node.right) == "2"
        if isinstance(node, ast.expr | ast.stmt):
            for kind, after in _changes(node, modules, squared=squared):
                yield node, kind, after, inside
        for test in getattr(node, "ifs", []) + ([node.test] if isinstance(node, ast.If | ast.While) else []):
            yield test, "negated condition", ast.UnaryOp(ast.Not(), test), inside
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, inside, squared=is_square and field == "left")

    yield from visit(tree, inside)


def _changes(node: ast.AST, modules: set[str], *, squared: bool) -> Iterator[tuple[str, ast.AST | None]]:
    """Yields the kind and the replacement of each change of one node, not of its children; `squared`: it is squared."""
    match node:
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (("constant", ast.Constant(other)) for other in (value + 1, value - 1))
        case ast.Constant(value=float(value)):
            yield from (("constant", ast.Constant(other)) for other in (value + 1, value * 2) if other != value)
        case ast.BinOp(left, op, right):
            if type(op) in _BINARY:
                yield "operator", ast.BinOp(left, _BINARY[type(op)](), right)
            if isinstance(op, _ORDERED):
                sign_only = isinstance(op, ast.Sub) and squared
                yield EQUIVALENT if sign_only else "swapped operands", ast.BinOp(right, op, left)
        case ast.AugAssign(target, op, value) if type(op) in _BINARY:
            yield "operator", ast.AugAssign(target, _BINARY[type(op)](), value)
        case ast.UnaryOp(_, operand):
            yield "dropped sign", operand
        case ast.BoolOp(op, values):
            yield "operator", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                for other in _COMPARE[type(op)]:
                    yield "comparison", ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], right)
        case ast.IfExp(test, body, orelse):
            yield "negated condition", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Expr(ast.Call()) | ast.Raise():
            yield "dropped statement", None
        case ast.Attribute(value, name, ast.Load()) if name in _NAMES:
            yield "name", ast.Attribute(value, _NAMES[name], ast.Load())
        case ast.Name(name, ast.Load()) if name in _NAMES:
            yield "name", ast.Name(_NAMES[name], ast.Load())
        case ast.Call():
            yield from _calls(node, modules)
        case ast.Subscript(value, ast.Slice(lower, upper, step), context):
            for part in _slices(lower, upper, step):
                yield "slice", ast.Subscript(value, part, context)


def _calls(node: ast.Call, modules: set[str]) -> Iterator[tuple[str, ast.AST]]:
    """Yields a call replaced by its object or first argument, with adjacent arguments swapped, without a keyword."""
    root = node.func
    while isinstance(root, ast.Attribute):
        root = root.value
    of_module = isinstance(root, ast.Name) and root.id in modules
    if isinstance(node.func, ast.Attribute) and not of_module:
        yield "dropped call", node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield "dropped call", node.args[0]
    for i, (left, right) in enumerate(zip(node.args, node.args[1:], strict=False)):
        starred = isinstance(left, ast.Starred) or isinstance(right, ast.Starred)
        if not starred and ast.dump(left) != ast.dump(right):
            args = [*node.args[:i], right, left, *node.args[i + 2 :]]
            symmetric = ast.unparse(node.func).rpartition(".")[2] in _SYMMETRIC
            yield EQUIVALENT if symmetric else "swapped arguments", ast.Call(node.func, args, node.keywords)
    for i, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield "dropped keyword", ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])


def _slices(lower: ast.expr | None, upper: ast.expr | None, step: ast.expr | None) -> Iterator[ast.Slice]:
    """Yields a slice without one of its ends, or with that end increased by one."""
    later = lambda end: ast.BinOp(end, ast.Add(), ast.Constant(1))
    if lower:
        yield from (ast.Slice(None, upper, step), ast.Slice(later(lower), upper, step))
    if upper:
        yield from (ast.Slice(lower, None, step), ast.Slice(lower, later(upper), step))
    if step:
        yield ast.Slice(lower, upper, None)


def _equal(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects do the same, regardless of line numbers."""
    same = all(
        getattr(one, name) == getattr(other, name)
        for name in ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_exceptiontable")
    )
    return same and len(one.co_consts) == len(other.co_consts) and all(map(_same, one.co_consts, other.co_consts))


def _same(one: object, other: object) -> bool:
    """Whether two constants of code are the same."""
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return _equal(one, other)
    return type(one) is type(other) and repr(one) == repr(other)
