"""The mutants of a file: copies of its source with one small change in the syntax tree."""

import ast
import copy
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

OPERATORS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"min": "max", "amin": "amax", "minimum": "maximum", "clamp_min": "clamp_max", "any": "all"}
NAMES |= {new: old for old, new in NAMES.items()}


SHORT = (ast.expr, ast.keyword, ast.arguments, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)


class Change(NamedTuple):
    """``setattr(owner, field, new)`` makes the change; ``place`` is the node whose text shows it."""

    place: ast.AST
    owner: ast.AST
    field: str
    new: Any


class Mutant(NamedTuple):
    module: str
    file: str
    line: int
    what: str
    source: str

    @property
    def id(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:10]


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes whose change is relevant: not annotations, decorators, messages, assertions and ``__repr__``."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not is_irrelevant(child):
                child.parent = node  # type: ignore[attr-defined]
                yield from walk(child)


def is_irrelevant(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    if isinstance(node, ast.keyword):  # strict=... of zip: a guard that never acts
        return node.arg == "strict"
    return isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)) or getattr(node, "name", "") == "__repr__"


def changes(node: ast.AST) -> Iterator[Change]:
    """All changes at this node."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in OPERATORS:
                yield Change(node, node, "ops", [*node.ops[:i], OPERATORS[type(op)](), *node.ops[i + 1 :]])
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        yield Change(node, node, "op", OPERATORS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp):  # applying the operator twice removes it: not not x, --x, ~~x
        yield Change(node, node, "operand", ast.UnaryOp(node.op, node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        yield Change(node, node, "value", not value if isinstance(value, bool) else changed(value))
    elif isinstance(node, ast.Subscript):
        yield from of_index(node)
    elif isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if is_irrelevant(keyword):
                continue
            yield Change(node, node, "keywords", [*node.keywords[:i], *node.keywords[i + 1 :]])
        if isinstance(node.func, ast.Name) and node.func.id in NAMES:
            yield Change(node, node.func, "id", NAMES[node.func.id])
        if isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
            yield Change(node, node.func, "attr", NAMES[node.func.attr])
    elif isinstance(node, ast.Return) and node.value is not None:
        yield Change(node, node, "value", None)
    if isinstance(node, ast.If):
        yield Change(node, node, "body", [ast.Pass()])
    for field in ("body", "orelse", "finalbody"):
        statements = getattr(node, field, None)
        for i, statement in enumerate(statements if isinstance(statements, list) else []):
            if is_removable(statement, getattr(node, "name", "")):
                yield Change(statement, node, field, [*statements[:i], ast.Pass(), *statements[i + 1 :]])


def changed(value: float) -> float:
    return value + 1 if isinstance(value, int) else (2 * value or 1.0)


def of_index(node: ast.Subscript) -> Iterator[Change]:
    """x[0] to x[-1] and back, also as one of several indices; not the bounds of slices."""
    several = isinstance(node.slice, ast.Tuple)
    indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for i, index in enumerate(indices):
        other = {"0": "-1", "-1": "0"}.get(ast.unparse(index))
        if other:
            new = ast.parse(other, mode="eval").body
            tuple_or_index = ast.Tuple([*indices[:i], new, *indices[i + 1 :]], ast.Load()) if several else new
            yield Change(node, node, "slice", tuple_or_index)


def is_removable(statement: ast.stmt, function: str) -> bool:
    """Whether a statement can be removed without a mere NameError."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    if isinstance(statement, ast.Assign):
        kinds = ast.Subscript if function == "__init__" else (ast.Subscript, ast.Attribute)
        return all(isinstance(target, kinds) for target in statement.targets)
    return isinstance(statement, ast.AugAssign)


def mutants(module: str, file: str, text: str) -> list[Mutant]:
    """All mutants of a file's text, each once, in the order of the code."""
    tree = ast.parse(text)
    by_source: dict[str, Mutant] = {}
    for node in list(walk(tree)):
        for place, owner, field, new in changes(node):
            line: int = place.lineno  # type: ignore[attr-defined]
            while len(shown(place)) < 16 and isinstance(place.parent, SHORT):  # type: ignore[attr-defined]  # "0 -> 1" alone would say little
                place = place.parent
            old, before = getattr(owner, field), shown(place)
            statement_goes = isinstance(new, list) and any(isinstance(each, ast.Pass) for each in new)
            setattr(owner, field, new)
            source, after = ast.unparse(tree), shown(place)
            setattr(owner, field, old)
            if statement_goes:
                before, after = ("the body of " + before, "pass") if node is place else (before, "(left out)")
            by_source.setdefault(source, Mutant(module, file, line, difference(before, after), source))
    by_source.pop(ast.unparse(tree), None)
    return list(by_source.values())


def shown(node: ast.AST) -> str:
    """A node's text in one line; of a statement with a body, only its head."""
    short = copy.copy(node)
    if isinstance(short, ast.If):
        short.body, short.orelse = [ast.Pass()], []
    return " ".join(ast.unparse(short).split()).removesuffix(" pass")


def difference(before: str, after: str) -> str:
    """Both texts; of long ones, the part that differs and a little around it."""
    if max(len(before), len(after)) > 120:
        start = shared_start(before, after)
        end = shared_start(before[start:][::-1], after[start:][::-1])
        before, after = ("..." + text[max(0, start - 40) : len(text) - max(0, end - 40)] for text in (before, after))
        before, after = (text if len(text) <= 160 else text[:157] + "..." for text in (before, after))
    return f"{before}  ->  {after}"


def shared_start(one: str, other: str) -> int:
    """How many characters at the start are the same."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
