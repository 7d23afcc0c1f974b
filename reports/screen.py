"""A sheet drawn for a terminal: as wide as that at most, and nothing that one copies is broken.

Where it is too narrow, in this order: headers wrap; a column with one text in all rows becomes a line above the table;
columns are left out by their `spare`; cells wrap between words; the longest texts stand on lines of their own. A word
is never cut: one that is longer than the terminal is left for it to wrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qsweep.reports.sheet import GAP, Heading, Part, Sheet

RULE, LIGHT = "─", "┄"
UNDERLINED = {"#": "═", "##": RULE, "###": ""}
"""Marks of headings, with what these are underlined with."""
MORE = "…"
COMFORT = 24
"""Characters that a column of texts keeps as long as another column can be left out instead."""


def drawn(sheet: Sheet, width: int, *, rows: int | None = None, total: int | None = None) -> str:
    """The sheet with its caption, notes and what was left out, ending with a newline; at most `rows` of its rows.

    `total` is how many rows there are where the sheet has only the first of them.
    """
    shown = sheet if rows is None else sheet.head(rows)
    fit = _fitted(shown, width)
    lines = paragraph(sheet.caption, width) if sheet.caption else []
    lines += paragraph(" · ".join(f"{name}: {text}" for name, text in fit.same), width) if fit.same else []
    lines += _table(fit, width) if fit.sheet.headings else []
    lines += [line for note in sheet.notes for line in paragraph(note, width, first="- ")]
    lines += _left_out(sheet, len(shown.rows), total or len(sheet.rows), fit, width)
    return "\n".join(lines) + "\n"


def drawn_document(parts: Sequence[Part], width: int) -> str:
    """A document for a terminal: headings are underlined, paragraphs and lists keep to the width."""
    return "\n".join(drawn(part, width) if isinstance(part, Sheet) else _text(part, width) for part in parts)


def _text(part: str, width: int) -> str:
    lines = list[str]()
    for line in part.split("\n"):
        bare = line.lstrip(" ")
        mark, _, rest = bare.partition(" ")
        if mark in UNDERLINED:
            heading = paragraph(rest, width)
            lines += [*heading, *(rule * max(map(cells, heading)) for rule in UNDERLINED[mark])]
        elif mark == "-":
            lines += paragraph(rest, width, first=" " * (len(line) - len(bare)) + "- ")
        else:
            lines += paragraph(line, width)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a sheet fits a terminal."""

    sheet: Sheet
    """The columns that are drawn."""
    widths: tuple[int, ...]
    gone: tuple[str, ...] = ()
    """Names of the columns that were left out …"""
    holes: tuple[int, ...] = ()
    """… and the drawn columns before which they would stand."""
    same: tuple[tuple[str, str], ...] = ()
    """Columns that have one text in all rows, with it."""
    header: tuple[str, ...] = ()
    """The names of the drawn columns."""
    own: tuple[int, ...] = ()
    """Drawn columns whose cells stand on lines of their own, above the rest of their row."""


def _fitted(sheet: Sheet, width: int) -> Fit:
    if _total(natural := _natural(sheet)) <= width:
        return Fit(sheet=sheet, header=tuple(sheet.names), widths=tuple(_roomy(sheet, natural, width)))
    same = _same(sheet)
    folded = _without(sheet, same)
    named = tuple((sheet.headings[index].name, sheet.rows[0][index]) for index in same)
    kept = list(range(len(folded.headings)))
    spare = sorted((one for one in kept if folded.headings[one].spare), key=lambda one: -folded.headings[one].spare)
    while spare and _total(_comfortable(_only(folded, kept))) > _room(folded, kept, width):
        kept.remove(spare.pop(0))
    gone = [index for index in range(len(folded.headings)) if index not in kept]
    holes = _holes(folded, kept)
    shown = _only(folded, kept)
    names = tuple(folded.headings[index].name for index in gone)
    fit = Fit(sheet=shown, header=tuple(shown.names), widths=(), gone=names, holes=tuple(holes), same=named)
    room = _room(folded, kept, width)
    widths = _shared(shown, room)
    if _total(widths) > room:
        return _hung(fit, room - len(GAP))
    return replace(fit, widths=tuple(_roomy(shown, widths, room)))


def _holes(sheet: Sheet, kept: Sequence[int]) -> list[int]:
    """The kept columns before which others were left out."""
    return sorted({sum(one < index for one in kept) for index in range(len(sheet.headings)) if index not in kept})


def _room(sheet: Sheet, kept: Sequence[int], width: int) -> int:
    """What the kept columns have, beside the signs of those that were left out."""
    return width - len(_holes(sheet, kept)) * (len(GAP) + len(MORE))


def _hung(fit: Fit, room: int) -> Fit:
    """The longest texts on lines of their own, until the other columns fit."""
    least, own = _least(fit.sheet), list[int]()
    every = range(len(least))
    for index in sorted((one for one in every if not fit.sheet.headings[one].numeric), key=lambda one: -least[one]):
        if _total([least[one] for one in every if one not in own]) <= room:
            break
        own.append(index)
    rest = _without(fit.sheet, own)
    widths = iter(_roomy(rest, _shared(rest, room), room))
    return replace(fit, own=tuple(own), widths=tuple(0 if one in own else next(widths) for one in every))


def _natural(sheet: Sheet) -> list[int]:
    """Of each column: its widest cell, or the longest word of its header."""
    return [
        max(1, *map(cells, _words(one.name)), *(cells(row[index]) for row in sheet.rows))
        for index, one in enumerate(sheet.headings)
    ]


def _least(sheet: Sheet) -> list[int]:
    """Of each column: how narrow it can be without breaking a word."""
    return [
        natural if one.numeric or one.copied else _longest_word(sheet, index)
        for index, (one, natural) in enumerate(zip(sheet.headings, _natural(sheet), strict=True))
    ]


def _longest_word(sheet: Sheet, index: int) -> int:
    texts = [sheet.headings[index].name, *(row[index] for row in sheet.rows)]
    return max(1, *(cells(word) for text in texts for word in _words(text)))


def _comfortable(sheet: Sheet) -> list[int]:
    pairs = zip(_natural(sheet), _least(sheet), strict=True)
    return [max(least, min(natural, COMFORT)) for natural, least in pairs]


def _shared(sheet: Sheet, room: int) -> list[int]:
    """Widths at which no word is broken, within `room` if that is enough; the rest goes to columns that lack most."""
    natural, widths = _natural(sheet), _least(sheet)
    free = room - _total(widths)
    while free > 0:
        lacking = [index for index in range(len(widths)) if widths[index] < natural[index]]
        if not lacking:
            break
        poorest = max(lacking, key=lambda index: natural[index] / widths[index])
        widths[poorest] += 1
        free -= 1
    return widths


def _roomy(sheet: Sheet, widths: Sequence[int], room: int) -> list[int]:
    """These widths, and as much more as headers need for standing on fewer lines, if there is room."""
    found = list(widths)
    while True:
        heights = [len(wrapped(one.name, width)) for one, width in zip(sheet.headings, found, strict=True)]
        tallest = max(heights, default=1)
        wider = list(found)
        for index, one in enumerate(sheet.headings):
            while heights[index] == tallest > 1 and len(wrapped(one.name, wider[index])) == tallest:
                wider[index] += 1
        if tallest == 1 or _total(wider) > room:
            return found
        found = wider


def _same(sheet: Sheet) -> list[int]:
    """Columns of texts that have the same in every row; one column stays, and in a single row what one copies."""
    single = len(sheet.rows) == 1
    found = [
        index
        for index, one in enumerate(sheet.headings)
        if not (one.numeric or (single and one.copied)) and _is_same(sheet, index)
    ]
    return found[: len(sheet.headings) - 1]


def _is_same(sheet: Sheet, index: int) -> bool:
    """Whether one text stands for the whole column; below the first row of a group a blank repeats it."""
    texts = {row[index] for number, row in enumerate(sheet.rows) if row[index] or number in (sheet.groups or (number,))}
    return len(texts) == 1 and "" not in texts


def _without(sheet: Sheet, columns: Sequence[int]) -> Sheet:
    return _only(sheet, [index for index in range(len(sheet.headings)) if index not in columns])


def _only(sheet: Sheet, kept: Sequence[int]) -> Sheet:
    return replace(
        sheet,
        headings=tuple(sheet.headings[index] for index in kept),
        rows=tuple(tuple(row[index] for index in kept) for row in sheet.rows),
    )


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _table(fit: Fit, width: int) -> list[str]:
    sheet = fit.sheet
    header = list(_row(fit, fit.header, width))
    bodies = [list(_row(fit, row, width)) for row in sheet.rows]
    across = min(width, max(cells(line) for lines in (header, *bodies) for line in lines))
    tall = 2 * sum(len(lines) > 1 for lines in bodies) >= len(bodies) > 1
    lines = [RULE * across, *header, RULE * across]
    for index, body in enumerate(bodies):
        if index and (index in sheet.groups or (tall and not sheet.groups)):
            lines.append(LIGHT * across)
        lines += body
    return [*lines, RULE * across]


def _row(fit: Fit, texts: Sequence[str], width: int) -> Iterator[str]:
    """The lines of one row, header or body: what one copies, the columns, the other long texts."""
    headings = fit.sheet.headings
    for index in (one for one in sorted(fit.own) if headings[one].copied):
        yield texts[index]
    columns = [
        (heading, room, wrapped(text, room))
        for index, (heading, room, text) in enumerate(zip(headings, fit.widths, texts, strict=True))
        if index not in fit.own
    ]
    margin = GAP if fit.own else ""
    for number in range(max((len(lines) for *_, lines in columns), default=0)):
        parts = [
            _padded(heading, room, lines[number] if number < len(lines) else "") for heading, room, lines in columns
        ]
        for place in reversed(fit.holes if not fit.own else ()):
            parts.insert(place, MORE if texts is fit.header and not number else " ")
        yield (margin + GAP.join(parts)).rstrip()
    for index in (one for one in sorted(fit.own) if not headings[one].copied):
        yield from paragraph(texts[index], width, first=GAP)


def _padded(heading: Heading, width: int, text: str) -> str:
    blank = " " * max(width - cells(text), 0)
    return blank + text if heading.numeric else text + blank


def _left_out(sheet: Sheet, rows: int, total: int, fit: Fit, width: int) -> list[str]:
    counts = []
    if fit.gone:
        counts.append(f"{len(sheet.headings) - len(fit.gone)} of {len(sheet.headings)} columns shown")
    if rows < total:
        counts.append(f"{rows} of {total} rows shown")
    if not counts:
        return []
    without = f"; without {', '.join(fit.gone)}" if fit.gone else ""
    return paragraph(f"({', '.join(counts)}{without}; {sheet.everything})", width)


def _words(text: str) -> list[str]:
    return text.split(" ")


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of that width, broken between words."""
    return [text] if cells(text) <= width else paragraph(text, width)


def paragraph(text: str, width: int, *, first: str = "") -> list[str]:
    """A text in lines of at most that width where its words allow it; no word is ever cut.

    `first` begins it, and the other lines are as far to the right.
    """
    lines, line = list[str](), first
    blank = True
    for word in _words(text):
        if not blank and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line, blank = " " * len(first), True
        line += word if blank else " " + word
        blank = False
    return [*lines, line]


def cells(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # here, because a table of plain texts doesn't need it

    return cell_len(text)
