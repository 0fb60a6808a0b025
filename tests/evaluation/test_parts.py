"""Evaluations are bounded, say what they will do, and go on after an interruption."""

import time
from math import comb

import numpy as np
import pytest

from mvflow import JNFShared
from mvflow.core import ArraySource
from mvflow.evaluation import evaluate
from mvflow.evaluation.parts import (
    OTHER_WORK,
    Part,
    SubsetPart,
    compute_parts,
    estimated_seconds,
)
from mvflow.evaluation.rows import chosen_subsets
from mvflow.evaluation.values import Values


class Store(dict):
    """Keeps parts in memory; raises after some of them."""

    def __init__(self, most=10**6):
        self.most = most

    def put(self, name, text):
        self[name] = text
        if len(self) == self.most:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def case(fitted, small):
    data, labels = small.data(3, rows=60, seed=9)
    return fitted(JNFShared, 3), ArraySource(data, labels=labels)


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_had_not_been(case):
    model, test = case
    plans, undisturbed, interrupted = [], Store(), Store(most=4)
    expected = evaluate(model, test, None, parts=undisturbed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, test, None, parts=interrupted)
    interrupted.most = 10**6
    computed = []
    resumed = evaluate(
        model,
        test,
        None,
        parts=interrupted,
        on_plan=plans.append,
        progress=lambda done, total, name, seconds: computed.append((done, total, name)),
    )
    assert resumed == expected
    assert plans[0].finished == 4
    assert plans[0].parts == len(undisturbed) == computed[-1][0] + 1
    assert [done for done, *_ in computed] == list(range(4, plans[0].parts))
    assert plans[0].subsets == {1: 3, 2: 3}
    assert plans[0].skipped == {}
    assert plans[0].rows_by_observed == {1: 30, 2: 10}
    assert plans[0].seconds > 0


def test_a_part_that_is_damaged_is_computed_again(case):
    model, test = case
    store = Store()
    expected = evaluate(model, test, None, parts=store)
    for name, text in [("reconstruction", "{"), ("diversity", '{"spaces": 3}')]:
        store[name] = text
    assert evaluate(model, test, None, parts=store) == expected


@pytest.mark.parametrize("count", [2, 3, 6, 9])
def test_subsets_are_bounded_repeatable_and_without_repetition(count):
    names = [f"m{i}" for i in range(count)]
    found = chosen_subsets(names, 4, 0)
    assert found == chosen_subsets(names[::-1], 4, 0)
    assert sorted(found) == list(range(1, count))
    for size, subsets in found.items():
        every = comb(count, size)
        expected = every if size in (1, count - 1) else min(4, every)
        assert len(subsets) == len({*subsets}) == expected
        assert all(len(given) == size and [*given] == sorted({*given}) for given in subsets)
    if count > 4:
        assert found != chosen_subsets(names, 4, 1)


@pytest.mark.parametrize("load", [1.0, 8.0])
def test_the_time_is_extrapolated_in_rows_and_size(load, monkeypatch):
    """A part takes 10 ms and 1 ms a row, times the modalities observed; others share the core."""
    now = {"processor": 0.0}
    monkeypatch.setattr(time, "process_time", lambda: now["processor"])
    monkeypatch.setattr(time, "perf_counter", lambda: load * now["processor"])

    def part(size):
        def work(rows):
            now["processor"] += size * (0.01 + 0.001 * rows)

        return Part(str(size), Values, Values, "kind", size, work, 100)

    seconds = estimated_seconds([part(size) for size in (1, 2, 4)])
    for size in (1, 2, 4):
        assert seconds[str(size)] == pytest.approx(load * size * 0.11)


def test_where_the_processor_waits_the_clock_counts(monkeypatch):
    now = {"clock": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["clock"])

    def work(rows):
        now["clock"] += 0.5 + 0.1 * rows

    monkeypatch.setattr(time, "process_time", lambda: 0.001 * now["clock"])
    seconds = estimated_seconds([Part("device", Values, Values, "kind", 1, work, 64)])
    assert seconds["device"] == pytest.approx(0.5 + 6.4)


def test_progress_corrects_its_promise(monkeypatch):
    """At first it is what was expected and some other work; then what the parts took."""

    class Slow(Values):
        pass

    left, now = [], {"clock": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["clock"])

    def work():
        now["clock"] += 20.0
        return Slow()

    parts = [Part(f"{i}", Slow, work) for i in range(3)]
    expected = {part.name: 10.0 for part in parts}
    compute_parts(parts, {}, None, expected, lambda *about: left.append(about[3]))
    assert left == pytest.approx([OTHER_WORK * 30.0, 2 * 20.0, 20.0])
    assert SubsetPart.model_fields.keys() >= {"predictions", "margins"}


def test_margins_cover_rows_of_new_directions(case):
    model, test = case
    kept = []
    found = evaluate(model, test, None, on_intervals=kept.append)
    (intervals,) = kept
    assert intervals.margins.keys() == found.predictions.keys()
    for key, margin in intervals.margins.items():
        assert margin.shape == (len(intervals.levels), found.predictions[key].width)
        rows = found.predictions[key].rows
        assert np.isfinite(margin[intervals.levels.index(0.8)]).all() == (rows >= 9)
