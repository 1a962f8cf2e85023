"""Work on several threads: the results' order, who takes the items, how far ahead, and what is raised when."""

import threading
import time

import pytest

from threedgen.core.threads import in_order


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_items_order_however_long_each_takes(threads):
    def late(item):
        time.sleep(0.01 * (item % 3 == 0))
        return item * item

    assert list(in_order(late, range(20), threads)) == [i * i for i in range(20)]
    assert list(in_order(late, [], threads)) == []


def test_items_are_taken_by_the_one_who_asks_and_only_a_few_ahead():
    taken, at_work = [], set()

    def items():
        for i in range(100):
            taken.append(threading.get_ident())
            yield i

    def work(item):
        at_work.add(threading.get_ident())
        return item

    results = in_order(work, items(), 2)
    assert next(results) == 0 and len(taken) <= 6
    results.close()
    assert set(taken) == {threading.get_ident()} and threading.get_ident() not in at_work


def test_two_items_are_worked_on_at_once():
    both = threading.Barrier(2, timeout=10)
    assert list(in_order(lambda item: both.wait() >= 0, range(4), 2)) == [True] * 4


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_raised_is_raised_in_its_turn(threads):
    results = in_order(lambda item: 1 // (3 - item), range(6), threads)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
