"""The language of `--where`: comparisons of settings joined by `and`, `or`, `not`. Parsed, never evaluated.

bits == 2 and depth > 2
optimizer in ['sgd', 'adam'] and not learning_rate < 0.05
2 <= depth < 4
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.text import shortened
from qsweep.sweeps.toml import BITS

Condition = Callable[[Mapping[str, Setting]], bool]

ALLOWED = (
    "allowed: comparisons (== != < <= > >= in, not in) of settings with numbers or 'texts', joined by and, or, not"
)
DEEPEST = 50
"""Levels of nesting that a condition may have: each takes some of Python's stack when it is parsed and judged."""
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}


def parse_where(text: str, settings: Mapping[str, Setting]) -> Condition:
    """The condition that `text` states about a job's settings.

    `settings` holds one example value of every setting that may be named, to check names and types by. A job
    that lacks a setting (`momentum` of an Adam training) fails every comparison of it. Raises InputError.
    """
    place = f"--where {shortened(text)!r}"
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (RecursionError, MemoryError):
        raise _too_deep(place) from None
    except (SyntaxError, ValueError) as error:
        if "too many nested parentheses" in str(error):
            raise _too_deep(place) from None
        at = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise InputError(f"this is not a condition{at}", place=place, allowed=ALLOWED) from None
    if _depth(tree.body) > DEEPEST:
        raise _too_deep(place)
    return _Parser(place, settings).condition(tree.body)


def _depth(node: ast.AST) -> int:
    """How many levels an expression has. Counted without recursion: it may have thousands."""
    level, deepest = [node], 0
    while level:
        deepest += 1
        level = [child for one in level for child in ast.iter_child_nodes(one)]
    return deepest


def _too_deep(place: str) -> InputError:
    return InputError("this is nested too deeply", place=place, allowed=f"allowed: {DEEPEST} levels")


class _Parser:
    def __init__(self, place: str, settings: Mapping[str, Setting]) -> None:
        self.place = place
        self.settings = settings

    def condition(self, node: ast.expr) -> Condition:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                parts = [self.condition(value) for value in values]
                return lambda job: all(part(job) for part in parts)
            case ast.BoolOp(op=ast.Or(), values=values):
                parts = [self.condition(value) for value in values]
                return lambda job: any(part(job) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.condition(operand)
                return lambda job: not inner(job)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._comparison([left, *comparators], ops)
        raise self._error(f"{_shown(node)!r} is not a comparison")

    def _comparison(self, operands: list[ast.expr], ops: list[ast.cmpop]) -> Condition:
        terms = [self._term(operand) for operand in operands]
        if not any(name is not None for name, _ in terms):
            raise self._error("a comparison has to name a setting")
        tests = []
        for (left, op), right in zip(zip(terms, ops, strict=False), terms[1:], strict=True):
            if type(op) not in COMPARISONS:
                raise self._error("'is' is not a comparison of settings")
            self._check_types(left, op, right)
            tests.append((left, COMPARISONS[type(op)], right))

        def holds(job: Mapping[str, Setting]) -> bool:
            for left, compare, right in tests:
                values = [job.get(name) if name else value for name, value in (left, right)]
                if None in values or not compare(*values):
                    return False
            return True

        return holds

    def _term(self, node: ast.expr) -> tuple[str | None, Any]:
        """A setting's name with an example of its value, or (None, a literal value)."""
        match node:
            case ast.Name(id=name):
                if name not in self.settings:
                    raise InputError(
                        f"{name!r} is not a setting", place=self.place, allowed=nearest(name, self.settings)
                    )
                return name, self.settings[name]
            case ast.Constant(value=str() | bool() | int() | float() as value):
                if isinstance(value, int) and value.bit_length() > BITS:
                    raise self._error("a number is too large")
                return None, value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) as operand):
                return None, -self._term(operand)[1]
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                members = [self._term(element) for element in elements]
                if any(name for name, _ in members):
                    raise self._error("a list may hold numbers and texts only")
                return None, tuple(value for _, value in members)
        raise self._error(f"{_shown(node)!r} is neither a setting nor a value")

    def _check_types(self, left: tuple[str | None, Any], op: ast.cmpop, right: tuple[str | None, Any]) -> None:
        example, other = left[1], right[1]
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(other, tuple):
                raise self._error("what follows 'in' has to be a list")
            pairs = [(example, member) for member in other]
        else:
            pairs = [(example, other)]
        for one, another in pairs:
            numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, another)]
            if numbers[0] != numbers[1] or (not numbers[0] and type(one) is not type(another)):
                raise self._error(f"{one!r} and {another!r} can't be compared")
            if isinstance(op, ORDERINGS) and not numbers[0]:
                raise self._error(f"{one!r} has no order")

    def _error(self, problem: str) -> InputError:
        return InputError(problem, place=self.place, allowed=ALLOWED)


def _shown(node: ast.expr) -> str:
    try:
        return shortened(ast.unparse(node))
    except ValueError:  # a number of more digits than Python prints
        return "a number"
