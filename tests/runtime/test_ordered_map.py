"""The ordered map: order, bounds, errors and endings, proven with events instead of sleeps."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesr.runtime import ordered_map as schedule
from slidesr.runtime.ordered_map import ordered_map

PATIENCE_S = 20.0
"""A test that waits this long has failed; none waits when the code is right."""


class Source:
    """A generator of numbers that tells how far it was read and whether it was closed."""

    def __init__(self, count: int) -> None:
        self.count, self.given, self.closed = count, 0, False
        self._numbers = self._count_up()  # kept, so that the garbage collector never closes it

    def __iter__(self) -> Generator[int, None, None]:
        return self._numbers

    def _count_up(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                self.given += 1
                yield number
        finally:
            self.closed = True


class Recorder:
    """Work that notes what it began, and counts how many calls run at once."""

    def __init__(self, work: Callable[[int], int] = lambda item: item) -> None:
        self.begun: list[int] = []
        self.most_at_once = self._at_once = 0
        self._work, self._lock = work, Lock()

    def __call__(self, item: int) -> int:
        with self._lock:
            self.begun.append(item)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self._work(item)
        finally:
            with self._lock:
                self._at_once -= 1


def wait(event: Event) -> None:
    assert event.wait(PATIENCE_S), "waited in vain"


@given(count=st.integers(0, 20), workers=st.integers(1, 4), ahead=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_the_order_is_kept(count: int, workers: int, ahead: int) -> None:
    made = ordered_map(lambda item: item * item, range(count), workers=workers, ahead=ahead)
    assert list(made) == [item * item for item in range(count)]


def test_the_order_is_kept_where_later_items_are_ready_first() -> None:
    later_is_done = Event()

    def work(item: int) -> int:
        if item == 0:
            wait(later_is_done)
        if item == 2:
            later_is_done.set()
        return item

    assert list(ordered_map(work, range(6), workers=2, ahead=3)) == list(range(6))


@given(count=st.integers(1, 20), workers=st.integers(1, 4), ahead=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_no_more_than_ahead_items_are_taken_before_they_are_asked_for(
    count: int, workers: int, ahead: int
) -> None:
    source = Source(count)
    for received, _ in enumerate(ordered_map(str, iter(source), workers=workers, ahead=ahead)):
        held = source.given - received
        assert held == min(ahead, count - received)
    assert source.closed


def test_prompt_results_are_not_held_while_an_item_is_made() -> None:
    second_is_done = Event()

    def work(item: int) -> int:
        if item == 1:
            second_is_done.set()
        return item

    def items() -> Generator[int, None, None]:
        yield 0
        assert received == [0], "the first was not waited for"
        yield 1
        wait(second_is_done)
        yield 2
        assert received == [0, 1], "the second was held"

    received: list[int] = []
    for item in ordered_map(work, items(), workers=1, ahead=5, prompt=True):
        received.append(item)
    assert received == [0, 1, 2]


@given(count=st.integers(0, 20), workers=st.integers(1, 4), ahead=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_prompt_keeps_order_and_bound(count: int, workers: int, ahead: int) -> None:
    source, received = Source(count), list[int]()
    for item in ordered_map(abs, iter(source), workers=workers, ahead=ahead, prompt=True):
        assert source.given - len(received) <= ahead
        received.append(item)
    assert received == list(range(count))
    assert source.closed


def test_the_workers_work_at_once_and_no_more_of_them() -> None:
    all_met = Barrier(3)

    def work(item: int) -> int:
        all_met.wait(PATIENCE_S)
        return item

    record = Recorder(work)
    assert list(ordered_map(record, range(12), workers=3, ahead=6)) == list(range(12))
    assert record.most_at_once == 3


def test_nothing_begins_before_the_first_is_asked_for() -> None:
    source, record = Source(3), Recorder()
    ordered_map(record, iter(source), workers=1, ahead=2).close()
    assert (source.given, record.begun) == (0, [])


def test_an_error_comes_in_its_place() -> None:
    def work(item: int) -> int:
        if item in (3, 4):
            raise LookupError(f"item {item}")
        return item

    source, received = Source(50), list[int]()
    with pytest.raises(LookupError, match="item 3"):
        received.extend(ordered_map(work, iter(source), workers=2, ahead=4))
    assert received == [0, 1, 2]
    assert source.closed


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Is set when a pool has been told to stop, before it waits for what runs."""
    event = Event()

    class TellingPool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            event.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(schedule, "ThreadPoolExecutor", TellingPool)
    return event


def test_after_an_error_nothing_further_begins(stopping: Event) -> None:
    def work(item: int) -> int:
        if item == 0:
            raise LookupError("item 0")
        wait(stopping)  # the only worker takes item 1 before the error is seen
        return item

    source, record = Source(50), Recorder(work)
    with pytest.raises(LookupError, match="item 0"):
        next(ordered_map(record, iter(source), workers=1, ahead=5))
    assert record.begun in ([0], [0, 1])
    assert (source.given, source.closed) == (5, True)


def test_closing_early_waits_for_what_runs_and_begins_nothing(stopping: Event) -> None:
    first_runs, finished = Event(), list[int]()

    def work(item: int) -> int:
        if item == 1:
            first_runs.set()
            wait(stopping)
        finished.append(item)
        return item

    source, record = Source(50), Recorder(work)
    made = ordered_map(record, iter(source), workers=1, ahead=5)
    assert next(made) == 0
    wait(first_runs)
    made.close()
    assert record.begun == finished == [0, 1]
    assert (source.given, source.closed) == (5, True)


def nested(source: Source, *, first: Callable[[int], int] = abs) -> Generator[int, None, None]:
    """Three stages as the pipeline has them: 3, 2 and 3 ahead."""
    one = ordered_map(first, iter(source), workers=2, ahead=3)
    two = ordered_map(lambda item: item + 1, one, workers=1, ahead=2)
    return ordered_map(lambda item: item * 10, two, workers=2, ahead=3)


def test_stages_keep_the_order_and_the_sum_of_their_bounds() -> None:
    source = Source(40)
    for received, made in enumerate(nested(source)):
        assert made == (received + 1) * 10
        # A stage that waits to hand on an item holds one less than it may.
        assert source.given - received <= 3 + 2 + 3 - 2
    assert received == 39
    assert source.closed


def test_closing_the_last_stage_closes_the_source() -> None:
    source = Source(1000)
    made = nested(source)
    assert [next(made), next(made)] == [10, 20]
    assert not source.closed
    made.close()
    assert source.closed
    assert source.given <= 1 + 6


def test_an_error_in_the_first_stage_ends_all() -> None:
    def fail(item: int) -> int:
        if item == 7:
            raise LookupError("item 7")
        return item

    source, received = Source(1000), list[int]()
    with pytest.raises(LookupError, match="item 7"):
        received.extend(nested(source, first=fail))
    assert source.closed
    assert source.given <= 7 + 3


def test_an_error_of_the_source_itself_is_raised() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise OSError("the slide is gone")

    with pytest.raises(OSError, match="the slide is gone"):
        list(ordered_map(abs, broken(), workers=2, ahead=4))


def test_a_plain_list_may_be_closed_early() -> None:
    made = ordered_map(abs, [-1, -2, -3], workers=1, ahead=2)
    assert next(made) == 1
    made.close()
    assert list(made) == []
