"""Tables as declared: small files, not code in a renderer."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.measures import known_measure_settings
from qsweep.sweeps.spec import Spec
from qsweep.sweeps.toml import read_toml
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import known_zero_shot_settings

Statistic: TypeAlias = Literal["mean", "median", "min", "max"]

ROW_NAMES = ("dataset", "model", "precision")
"""Row keys that show a setting as the paper does."""
NO_OTHERS = {"extra": "forbid"}
"""A user's table has no other keys than these."""
MOST_DECIMALS = 9
OF_RUNS = ("returned", "logged")
"""The kinds of results of a user's functions and commands."""
PAPERS = ("table1.csv",)
"""The paper's values that a user's table may stand beside."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the mean (or another statistic) of `value` times `scale`, shown with `decimals`.

    `name` is the paper's, and what a cell is called by; `value` a column of the results. A table that is made by
    `distortion` has a column for each `precision`.
    """

    __pydantic_config__: ClassVar = NO_OTHERS
    name: str
    label: str
    value: str
    statistic: Statistic = "mean"
    scale: float = 1.0
    decimals: int = 4
    precision: str | None = None
    paper_scale: float = 1.0
    """What the paper's value is multiplied by to be in the unit of the column."""


@dataclass(frozen=True, kw_only=True)
class PaperSpread:
    """How a file of the paper with one `value` a line becomes columns: by the names that stand in `by`."""

    __pydantic_config__: ClassVar = NO_OTHERS
    by: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One table: which results it averages, by what, and the file of the paper's values.

    `rows` are `dataset`, `model`, `precision` or any setting of a job; `where` admits some of the jobs, in the
    language of `--where`.
    """

    __pydantic_config__: ClassVar = NO_OTHERS
    number: int | None = None
    title: str
    kind: str
    rows: list[str]
    columns: list[Column]
    averages: list[str] = field(default_factory=list)
    """The settings that a row is a mean over; if models in a row differ in any other one, the table says so."""
    where: str | None = None
    made_by: Literal["means", "flatness", "distortion"] = "means"
    """`flatness` compares measures under each convention (Tables 2 and 3), `distortion` corruptions (4 to 6)."""
    paper: str | None = None
    paper_keys: dict[str, str] = field(default_factory=dict)
    """What the paper's file calls a row key, where it has another name."""
    paper_rows: list[str] = field(default_factory=list)
    """The row keys that the paper's file has; all of them, where none is named."""
    paper_names: dict[str, str] = field(default_factory=dict)
    """What is called otherwise in the paper's file, with what it is called here."""
    paper_spread: PaperSpread | None = None
    usual_widths: dict[str, int] = field(default_factory=dict)
    """The width of each family of networks at which it bears the paper's name."""
    spread: bool = False
    """Whether it always shows the spread of its values."""
    order: str = ""
    """The column by which its rows are ordered, the largest value first with a `-` before it; else by their keys."""
    name: str = ""
    """Of its file."""

    @classmethod
    def from_content(cls, content: Mapping[str, Any], name: str) -> Declaration:
        """The table of that name from the content of its file, which has been checked."""
        columns = [Column(**one) for one in content["columns"]]
        spread = content.get("paper_spread")
        nested = {"columns": columns, "paper_spread": spread and PaperSpread(**spread)}
        return cls(**{**content, **nested, "name": name})

    @property
    def nouns(self) -> str:
        """What its rows average: `runs` of a user's functions and commands, else models."""
        return "runs" if self.kind in OF_RUNS else "models"

    @property
    def heading(self) -> str:
        """`Table 1: …`; the title alone where it has no number."""
        return self.title if self.number is None else f"Table {self.number}: {self.title}"


def with_medians(declaration: Declaration) -> Declaration:
    """The same table of medians where it has means; the paper has no medians.

    Raises InputError for a table that is not made of means.
    """
    if declaration.made_by != "means":
        raise InputError(f"{declaration.name} is no table of means", place="--median", allowed="allowed with --table 1")
    columns = [_with_median(one) if one.statistic == "mean" else one for one in declaration.columns]
    return replace(declaration, columns=columns, paper=None)


def _with_median(column: Column) -> Column:
    return replace(column, statistic="median", label=f"{column.label}, median")


def declared_tables() -> dict[str, Declaration]:
    """Every declared table that comes with qsweep, by its name (`table1`). A test checks their files, not a command."""
    folder = resources.files("qsweep.reports").joinpath("declarations")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda one: one.name)
    return {
        name: Declaration.from_content(tomllib.loads(entry.read_text(encoding="utf-8")), name)
        for entry in files
        for name in [entry.name.removesuffix(".toml")]
    }


def find_table(name: str) -> Declaration:
    """The declared table of that name. Raises InputError."""
    tables = declared_tables()
    if name not in tables:
        raise InputError(f"there is no table {name!r}", allowed=nearest(name, tables))
    return tables[name]


def tables_of(spec: Spec) -> list[Declaration]:
    """The tables of a sweep, in its order: those that come with qsweep, and its own. Raises InputError."""
    own = dict(spec.declarations)
    arguments = spec.argument_names
    return [
        parse_table(_filled(json.loads(own[name]), spec), name, arguments) if name in own else find_table(name)
        for name in spec.tables
    ]


def _filled(content: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """What a table of a sweep's own need not say: its title, what it is of, and of a column more than its value."""
    columns = content.get("columns")
    if not isinstance(columns, list):
        return {"title": spec.title, "kind": OF_RUNS[0] if spec.calls else "runs", **content}
    short = [{"name": one, "label": one, "value": one} if isinstance(one, str) else one for one in columns]
    full = [
        {"label": one.get("name", one["value"]), "name": one["value"], **one}
        if isinstance(one, Mapping) and isinstance(one.get("value"), str)
        else one
        for one in short
    ]
    return {"title": spec.title, "kind": OF_RUNS[0] if spec.calls else "runs", **content, "columns": full}


def read_table(path: Path, spec: Spec) -> Declaration:
    """The table of this sweep that a file declares. Raises InputError."""
    try:
        return parse_table(_filled(read_toml(path, str(path)), spec), str(path), spec.argument_names)
    except FileNotFoundError:
        raise InputError("there is no such file", place=str(path), allowed="allowed: TOML") from None


def parse_table(content: Mapping[str, Any], name: str, arguments: Collection[str] = ()) -> Declaration:
    """The table that the content of a file declares, over settings and the `arguments` of modules. Raises InputError
    for what does not hold in it."""
    from qsweep.db.schema import ROW_KINDS  # here: it brings Arrow, which a launch that begins does not need

    table = replace(check_form(content, name), name=Path(name).stem)
    for part in ("rows", "columns"):
        if not getattr(table, part):
            raise InputError("this is empty", place=f"{name}: {part}", allowed="allowed: one or more")
    if table.made_by != "means":
        raise InputError("a table of yours takes means", place=f"{name}: made_by")
    if table.kind not in ROW_KINDS:
        raise InputError(
            f"there is no kind of result {table.kind!r}", place=name, allowed=nearest(table.kind, ROW_KINDS)
        )
    if table.order and table.order.removeprefix("-") not in (names := [one.name for one in table.columns]):
        allowed = nearest(table.order.removeprefix("-"), names)
        raise InputError(f"there is no column {table.order!r}", place=f"{name}: order", allowed=allowed)
    of_user = ROW_KINDS[table.kind].of.of_user
    numbers = ROW_KINDS[table.kind].averaged
    for number, column in enumerate(table.columns, 1):
        if not 0 <= column.decimals <= MOST_DECIMALS:
            place, allowed = f"{name}: columns.{number}.decimals", f"allowed: 0 to {MOST_DECIMALS}"
            raise InputError(f"{column.decimals} decimals can't be shown", place=place, allowed=allowed)
        if column.precision is not None:
            allowed = "name precision among the rows"
            raise InputError("a table of means has no columns by precision", place=f"{name}: columns", allowed=allowed)
        if column.value not in numbers and not of_user:
            allowed = nearest(column.value, numbers)
            raise InputError(f"{table.kind} has no number {column.value!r}", place=f"{name}: columns", allowed=allowed)
    settings = {*Training.known(), *known_measure_settings(), *known_zero_shot_settings(), *arguments}
    for part, keys, known in (("rows", table.rows, {*ROW_NAMES, *settings}), ("averages", table.averages, settings)):
        if not of_user and (unknown := [key for key in keys if key not in known]):
            allowed = nearest(unknown[0], known)
            raise InputError(f"{unknown[0]!r} is not a setting", place=f"{name}: {part}", allowed=allowed)
    if table.paper is not None and table.paper not in PAPERS:
        raise InputError(
            f"there is no {table.paper!r}", place=f"{name}: paper", allowed="allowed: " + ", ".join(PAPERS)
        )
    return table


def check_form(content: Mapping[str, Any], name: str) -> Declaration:
    """The table, each of whose values has its type. Raises InputError for the first that has not."""
    from pydantic import TypeAdapter, ValidationError  # here: few sweeps have tables of their own

    try:
        return TypeAdapter(Declaration).validate_python(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        problem = "there is no such key" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        raise InputError(problem, place=f"{name}: {place}") from None


def paper_values(declaration: Declaration) -> Mapping[tuple[str, ...], Mapping[str, float]]:
    """The paper's values of a table: by its row keys, then by column name; empty if the paper has none."""
    if declaration.paper is None:
        return {}
    text = resources.files("qsweep.reports").joinpath("paper", declaration.paper).read_text(encoding="utf-8")
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        names = (declaration.paper_keys.get(key, key) for key in declaration.paper_rows or declaration.rows)
        keys = (row[name] for name in names if name in row)
        values = found.setdefault(tuple(declaration.paper_names.get(key, key) for key in keys), {})
        if spread := declaration.paper_spread:
            row = {row[spread.by]: row[spread.value]}
        values |= {
            column.name: float(row[column.name]) * column.paper_scale
            for column in declaration.columns
            if row.get(column.name)
        }
    return found
