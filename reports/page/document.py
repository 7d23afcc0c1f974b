"""What every page of qsweep is made with: assets, a template, embedded data, and hashes that admit nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

ASSETS = resources.files("qsweep.reports.page").joinpath("assets")


def asset(name: str) -> str:
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def template(name: str) -> jinja2.Template:
    """A template that escapes whatever it is given, and knows every name."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    return environment.from_string(asset(name))


def hash_of(text: str) -> str:
    """What the page's Content-Security-Policy admits: this very text, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(content: Any) -> Markup:
    """JSON that can't end its script element, whatever the names in it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return Markup(text.translate(str.maketrans(escapes)))
