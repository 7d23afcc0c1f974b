"""Tables as declared: small files, not code in a renderer."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field

from sweeps.errors import InputError, nearest


class Column(BaseModel):
    """One column: the mean of `value` times `scale`, shown with `decimals`. `name` is the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    label: str
    value: str
    scale: float = 1.0
    decimals: int = Field(ge=0, le=9)


class Declaration(BaseModel):
    """One table: which results it averages, by what, and the file of the paper's values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    number: int
    title: str
    kind: str
    rows: list[str]
    columns: list[Column]
    paper: str | None = None
    paper_keys: dict[str, str] = Field(default_factory=dict)
    """What the paper's file calls a row key, where it has another name."""


def declared_tables() -> dict[str, Declaration]:
    """Every declared table by its name (`table1`)."""
    folder = resources.files("reports").joinpath("declarations")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda one: one.name)
    return {
        entry.name.removesuffix(".toml"): Declaration.model_validate(tomllib.loads(entry.read_text(encoding="utf-8")))
        for entry in files
    }


def find_table(name: str) -> Declaration:
    """The declared table of that name. Raises InputError."""
    tables = declared_tables()
    if name not in tables:
        raise InputError(f"there is no table {name!r}", allowed=nearest(name, tables))
    return tables[name]


def paper_values(declaration: Declaration) -> Mapping[tuple[str, ...], Mapping[str, float]]:
    """The paper's values of a table: by its row keys, then by column name; empty if the paper has none."""
    if declaration.paper is None:
        return {}
    text = resources.files("reports").joinpath("paper", declaration.paper).read_text(encoding="utf-8")
    return {
        tuple(row[name] for key in declaration.rows if (name := declaration.paper_keys.get(key, key)) in row): {
            column.name: float(row[column.name]) for column in declaration.columns if row.get(column.name)
        }
        for row in csv.DictReader(text.splitlines())
    }
