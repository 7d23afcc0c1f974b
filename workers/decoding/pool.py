"""Processes that decode images ahead of the code that takes them, in order, with bounded memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from qsweep.sweeps.errors import QsweepError
from qsweep.workers.corruptions.files import CorruptedFiles, Drawn, Stored
from qsweep.workers.decoding.listing import Listing
from qsweep.workers.decoding.pixels import (
    Boxes,
    BrokenImage,
    Cut,
    draw_cut,
    evaluation_pixels,
    stored_pixels,
    training_pixels,
)

log = logging.getLogger(__name__)

ANEW = multiprocessing.get_context("spawn")
"""How a process of the pool starts: it has no memory, lock or thread of the agent's."""
CHUNK = 16
"""Images that a process decodes at a time."""
AHEAD = 3
"""Chunks that wait for each process."""
MOST = 16
"""Processes that one agent starts at most."""
NEXT = 100
"""How many of the images that follow a broken one are tried in its place."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images to decode: the name of their listing, their places in it, and how.

    `counter` is that of their random cuts; None cuts from the middle. With `exact`, as many images come back as were
    asked for: the next of the listing that can be decoded takes the place of one that is skipped. `boxes` are cuts of
    these images that were drawn before. `corrupted` takes the corrupted images of those at the places.
    """

    listing: str
    places: np.ndarray
    counter: str | None
    exact: bool
    boxes: Boxes | None = None
    corrupted: CorruptedFiles | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Pixels (B, 3, side, side), uint8, and the places in the listing that they are from (B)."""

    pixels: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """What a process decodes by: listings by name, the side of the images, whether broken ones are skipped, and how
    often an image is cut at random."""

    listings: Mapping[str, Listing]
    side: int
    skip: bool
    crops: int = 1

    def decode(self, task: Task) -> Decoded:
        """Raises BrokenImage at an image that can't be decoded and is not to be skipped."""
        found = [one for number in range(len(task.places)) for one in self._cuts_of(task, number)]
        pixels = np.empty((len(found), 3, self.side, self.side), dtype=np.uint8)
        for number, (_, picture) in enumerate(found):
            pixels[number] = picture
        places = np.array([place for place, _ in found], dtype=np.int64)
        if isinstance(task.corrupted, Drawn) and found:
            listing = self.listings[task.listing]
            pixels = task.corrupted.applied(pixels, [listing.name(place) for place in places.tolist()])
        return Decoded(pixels=pixels, places=places)

    def _cuts_of(self, task: Task, number: int) -> list[tuple[int, np.ndarray]]:
        """The cuts of one of a task's images, each with the place that it is from; none of one that is skipped."""
        listing, place = self.listings[task.listing], int(task.places[number])
        for further in range(NEXT if task.exact else 1):
            other = (place + further) % len(listing)
            try:
                if isinstance(task.corrupted, Stored):
                    return [(other, stored_pixels(task.corrupted.path(listing, other), self.side))]
                if task.counter is None:
                    return [(other, evaluation_pixels(listing.path(other), self.side))]
                pixels = training_pixels(listing.path(other), self.side, self._cuts(task, number))
                return [(other, one) for one in pixels]
            except BrokenImage as error:
                if not self.skip:
                    raise
                log.warning("%s: left out", error)
        if task.exact:
            raise QsweepError(f"{NEXT} images from {listing.path(place)} on can't be decoded")
        return []

    def _cuts(self, task: Task, number: int) -> Callable[[int, int], list[Cut]]:
        """The cuts of one of a task's images by its width and height: those drawn before, or random ones."""
        if (boxes := task.boxes) is not None:
            return lambda width, height: boxes.cuts(number, width, height)
        counter = f"{task.counter}/{task.places[number]}"
        counters = [counter, *(f"{counter}/{further}" for further in range(1, self.crops))]
        return lambda width, height: [draw_cut(width, height, one) for one in counters]


class Decoders:
    """A pool of processes that work for one decoder. They end with this one, however it ends."""

    def __init__(self, decoder: Decoder, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, mp_context=ANEW, initializer=_begin, initargs=(decoder,))

    def decode(self, tasks: Iterable[Task]) -> Iterator[Decoded]:
        """The images of each task, in order; those of some tasks ahead wait in memory. Raises BrokenImage."""
        waiting: deque[Future[Decoded]] = deque()
        tasks = iter(tasks)
        try:
            while True:
                while len(waiting) < AHEAD * self._processes and (task := next(tasks, None)) is not None:
                    waiting.append(self._pool.submit(_decode, task))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise QsweepError("a process that decodes images was killed (out of memory?)") from error
        finally:
            for one in waiting:
                one.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def processes_here(agents: int) -> int:
    """How many decoding processes an agent starts, of as many agents as share this machine's cores.

    QSWEEP_DECODERS says it outright.
    """
    named = os.environ.get("QSWEEP_DECODERS")
    if named is not None and named.isdecimal() and int(named):
        return int(named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST, cores // max(agents, 1)))


_decoder: Decoder | None = None
"""In a process of the pool: what it decodes by."""


def _begin(decoder: Decoder) -> None:
    """Make a new process of the pool ready. What the agent is told by signals is not meant for it."""
    global _decoder
    _decoder = decoder
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for inherited in (0, 1):  # who waits for the end of the agent's output does not wait for this process
        os.dup2(nothing, inherited)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the agent, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    try:
        parent.join()
    finally:  # without this watch the process could outlive its agent
        os._exit(1)


def _decode(task: Task) -> Decoded:
    assert _decoder is not None
    return _decoder.decode(task)
