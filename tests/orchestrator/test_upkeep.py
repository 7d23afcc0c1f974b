"""When agents are started again, and when that is given up: fleets of numbers alone, under a clock of ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qsweep.orchestrator.upkeep import (
    FIRST,
    HEALTHY_AFTER,
    MOST,
    MOST_FAILED_STARTS,
    End,
    Look,
    Place,
    Upkeep,
    pause_after,
)
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.agent.exits import Exit

POLL = 0.5


@dataclass
class Life:
    """One agent: where it is, when it gets its first job (None: never), and when it ends."""

    place: int
    first_job: float | None
    end: float


@dataclass
class Cluster:
    """A fleet of `size` places, and a launcher that keeps it up. `live` says what becomes of an agent started there."""

    size: int
    live: Callable[[int, float], Life]
    now: float = 0.0
    lives: list[Life] = field(default_factory=list)
    starts: list[tuple[float, int]] = field(default_factory=list)
    upkeep: Upkeep = field(default_factory=Upkeep)
    given_up: bool = False
    refuses: bool = False

    def look(self) -> Look:
        before = self.now - POLL
        agents_with_jobs = [
            one for one in self.lives if one.first_job is not None and before < one.first_job <= self.now
        ]
        self.lives = [one for one in self.lives if one.end > self.now]
        return Look(
            now=self.now,
            wanted=self.size,
            alive=len(self.lives),
            events=len(agents_with_jobs),
            agents_with_jobs=len(agents_with_jobs),
        )

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until and not self.given_up:
            look = self.look()
            due = self.upkeep.due(look)
            self.given_up = self.upkeep.is_hopeless(look)
            if due and not self.given_up:
                self.start(due)
            self.now += POLL

    def start(self, count: int) -> None:
        if self.refuses:
            self.upkeep.refused(self.now)
            return
        free = [place for place in range(self.size) if place not in {one.place for one in self.lives}]
        for place in free[::-1][:count]:
            self.lives.append(self.live(place, self.now))
            self.starts.append((self.now, place))
        self.upkeep.started(count, self.now)

    def places(self, since: float = 0.0) -> list[int]:
        return [place for at, place in self.starts if at >= since]


def broken(place: int, now: float) -> Life:
    return Life(place, None, now + 2)


def sound(place: int, now: float) -> Life:
    return Life(place, now + 3, float("inf"))


def test_agents_that_had_a_job_are_replaced_at_once_however_soon_they_die() -> None:
    for seed in range(20):
        dice = random.Random(seed)
        ends: list[float] = []

        def live(place: int, now: float, dice: random.Random = dice, ends: list[float] = ends) -> Life:
            first = now + dice.uniform(0, 3)
            ends.append(first + dice.expovariate(1 / 20))
            return Life(place, first, ends[-1])

        cluster = Cluster(1, live)
        cluster.run(2000)
        again = [at for at, _ in cluster.starts[1:]]
        assert len(again) > 50
        assert all(0 <= at - end <= POLL for at, end in zip(again, ends, strict=False))


def test_a_broken_node_is_tried_ever_more_rarely_while_the_others_are_kept_up() -> None:
    def live(place: int, now: float) -> Life:
        return broken(place, now) if place == 0 else sound(place, now)

    cluster = Cluster(8, live)
    cluster.run(6 * 3600)
    tried = [at for at, place in cluster.starts if place == 0]
    doublings = sum(1 for times in range(1, 50) if pause_after(times) < MOST)
    assert len(tried) <= 8 + doublings + 6 * 3600 / MOST
    assert len(tried) >= 6 * 3600 / MOST / 2, "it is tried as long as the launch lasts"
    assert sorted(cluster.places())[-7:] == list(range(1, 8))
    lost = cluster.now
    cluster.lives = [one for one in cluster.lives if one.place != 5]
    cluster.run(2 * POLL)
    assert cluster.places(lost) == [5], "a sound one is replaced while the broken one's pause lasts"


def test_many_agents_that_all_end_without_a_job_are_given_up_after_the_fourth_start() -> None:
    for size in (1, 8, 100):
        cluster = Cluster(size, broken)
        cluster.run(3600)
        assert cluster.given_up
        assert cluster.places().count(0) == MOST_FAILED_STARTS + 1
        assert len(cluster.starts) == size * (MOST_FAILED_STARTS + 1)
        assert cluster.now < 4 * 2 + sum(pause_after(times) for times in (1, 2, 3)) + 10 * POLL


def test_nothing_is_given_up_while_one_agent_waits_or_somebody_elsewhere_works() -> None:
    waits = Cluster(4, lambda place, now: Life(place, None, float("inf")) if place == 3 else broken(place, now))
    waits.run(3600)
    assert not waits.given_up
    upkeep = Upkeep()
    alive = 0
    for step in range(20_000):
        look = Look(now=step * POLL, wanted=1, alive=alive, events=step % 3 == 0)
        alive = upkeep.due(look)
        assert not upkeep.is_hopeless(look)
        upkeep.started(alive, look.now)


def test_what_was_mended_goes_on_at_once() -> None:
    cluster = Cluster(4, broken)
    cluster.run(5)
    cluster.live = sound
    cluster.run(20)
    assert len(cluster.lives) == 4
    cluster.lives = cluster.lives[2:]
    lost = cluster.now
    cluster.run(2 * POLL)
    assert sorted(cluster.places(lost)) == [2, 3]


def test_agents_that_were_taken_away_are_not_replaced_and_no_count_failure() -> None:
    cluster = Cluster(5, sound)
    cluster.run(1)  # before their first job
    for _ in range(2):
        cluster.size -= 2
        cluster.lives = cluster.lives[2:]
        cluster.run(30)
    assert len(cluster.starts) == 5
    lost = cluster.now
    cluster.lives = []
    cluster.run(2 * POLL)
    assert len(cluster.places(lost)) == 1


def test_a_refused_start_is_tried_again_and_no_count_failure() -> None:
    cluster = Cluster(3, sound, refuses=True)
    cluster.run(3 * MOST)
    assert not cluster.given_up
    assert not cluster.starts
    cluster.refuses = False
    cluster.run(MOST + POLL)
    assert sorted(cluster.places()) == [0, 1, 2]
    assert cluster.lives


def test_agents_of_an_earlier_launch_count_as_proven() -> None:
    cluster = Cluster(2, sound)
    cluster.lives = [Life(0, None, 30.0), Life(1, None, 40.2)]
    cluster.run(41)
    assert [at for at, _ in cluster.starts] == [30.0, 40.5]


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_after(times) for times in range(1, 5)] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert pause_after(10_000) == MOST


def test_a_place_is_given_up_after_four_short_lives_without_a_job() -> None:
    place, crash = Place(), End(code=1)
    for _ in range(5):
        assert [place.pause(crash, lived=5) for _ in range(MOST_FAILED_STARTS)] == [0.5, 1.0, 2.0]
        assert place.pause(crash, lived=HEALTHY_AFTER) == 0
        assert [place.pause(crash, lived=5) for _ in range(MOST_FAILED_STARTS)] == [0.5, 1.0, 2.0]
        assert place.pause(End(code=1, held=3), lived=5) == 0
    for _ in range(MOST_FAILED_STARTS):
        place.pause(crash, lived=5)
    with pytest.raises(QsweepError, match="ended 4 times without doing anything, the last time with 1"):
        place.pause(crash, lived=5)


def test_a_place_is_kept_while_the_registry_is_away_and_given_up_at_once_for_bad_input() -> None:
    place = Place()
    for end in (End(code=Exit.REGISTRY_GONE), End(code=1, reported=False)):
        pauses = [place.pause(end, lived=60) for _ in range(500)]
        assert pauses[-1] == 60
    assert place.pause(End(code=1), lived=5) == 0.5
    assert place.pause(End(code=Exit.REGISTRY_GONE), lived=60) == 5
    with pytest.raises(InputError, match="no agent can work here"):
        place.pause(End(code=Exit.BAD_INPUT), lived=5)
