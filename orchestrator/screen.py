"""What shows progress on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from qsweep.sweeps.text import clean


class Screen(Console):
    """A Rich console that shows texts as they are, but for what a terminal would obey."""

    def __init__(self, *, stderr: bool = True, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    @property
    def file(self) -> IO[str]:
        """While a live display stands, Rich's own proxy lies before the outlet, which would clean Rich's sequences."""
        file = super().file
        return cast("IO[str]", getattr(file, "rich_proxied_file", file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or (text := clean(segment.text)) == segment.text:
                yield segment
            else:
                yield Segment(text, segment.style)
