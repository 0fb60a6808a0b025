"""What frozen parts give, kept in files: equal to the bit, never stale, never half written."""

import errno
import os

import numpy as np
import pytest
import torch

from mvflow import JNF, JNFShared, load
from mvflow.config import with_part
from mvflow.core import ArraySource, DataError
from mvflow.estimators import fitting
from mvflow.nn import seeded
from mvflow.runs import Inputs, Plan, RunDirectory
from mvflow.stages import CachedColumn
from mvflow.systems import build_system, stages_of
from mvflow.training import ColumnCache, MappedColumn, NoOpCallback, Table, TensorColumn, caching
from mvflow.training.caching import with_cached_columns

LATENTS = "joint_posterior"
HELD = f"{LATENTS}.validation", "projections0.validation", "projections1.validation"


@pytest.fixture
def computed(monkeypatch):
    """Names of the arrays that are computed for a file, as they are."""
    found, array = [], RunDirectory.array

    def watched(run, name, key, rows, blocks):
        def heard():
            found.append(name)
            return blocks()

        return array(run, name, key, rows, heard)

    monkeypatch.setattr(RunDirectory, "array", watched)
    return found


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(fitting, "free_memory", lambda _: 0)


# Whole trainings


@pytest.mark.parametrize("kind", [JNF, JNFShared])
@pytest.mark.parametrize("subset", ["product", "amortised", "matching"])
def test_training_from_files_gives_equal_bits(small, tmp_path, no_memory, computed, kind, subset):
    both = {"kind": "matching", "summary_hidden": [8], "embedding": 4, "width": 8, "sees": "both"}
    rule = {"amortised": small.amortised, "matching": both}.get(subset, subset)
    config, data = small.estimator(kind, 2, subset=rule).config, small.data(2)[0]
    expected = kind.from_config(config).fit(data).system_.state_dict()
    run = RunDirectory.create(tmp_path / "run", config)
    found = kind.from_config(config).fit(data, run=run).system_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    projections = ["projections0", "projections1"] if kind is JNFShared else []
    assert computed == [LATENTS, *projections, f"{LATENTS}.validation"]
    assert sorted(p.name.partition("-")[0] for p in run.arrays.iterdir()) == sorted(computed)


class Killed(Exception):
    pass


class KillIn(NoOpCallback):
    def __init__(self, stage):
        self.stage = stage

    def on_epoch(self, record, checkpoint):
        if record.stage == self.stage:
            raise Killed


def test_files_serve_a_resumed_stage_and_the_other_posterior(
    small, fitted, tmp_path, no_memory, computed
):
    config, data = small.estimator(JNFShared, 2).config, small.data(2)[0]
    run = RunDirectory.create(tmp_path / "run", config)
    with pytest.raises(Killed):
        load(run.path).fit(data, run=run, callback=KillIn("flows"))
    assert len(computed) == 4
    found = load(run.path).fit(data, stages=["flows"], run=run).system_.state_dict()
    expected = fitted(JNFShared, 2).system_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    run.write_config(with_part(config, "subset", "amortised"))
    load(run.path).fit(data, stages=["amortised"], run=run)
    assert len(computed) == 4


def test_rows_held_out_from_another_source_have_files_of_their_own(
    small, tmp_path, no_memory, computed
):
    config = small.estimator(JNFShared, 2).config
    data, other = small.data(2)[0], {n: x[:40] + 1 for n, x in small.data(2)[0].items()}
    run = RunDirectory.create(tmp_path / "run", config)
    load(run.path).fit(data, validation=other, run=run)
    assert sorted(computed) == sorted([LATENTS, "projections0", "projections1", *HELD])
    computed.clear()
    load(run.path).fit(data, validation=other, stages=["flows"], run=run)
    assert computed == []
    other["m0"] = other["m0"] + 1
    load(run.path).fit(data, validation=other, stages=["flows"], run=run)
    assert sorted(computed) == sorted(HELD)


def test_without_room_on_the_disk_the_stage_says_so(small, tmp_path, no_memory, monkeypatch):
    blocks = caching._blocks

    def full(*args):
        yield next(blocks(*args))[:50]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config, data = small.estimator(JNF, 2).config, small.data(2)[0]
    run = RunDirectory.create(tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr(caching, "_blocks", full)
        with pytest.raises(DataError, match=r"cannot write .*posterior-.*: the disk is full"):
            load(run.path).fit(data, run=run)
    assert list(run.arrays.iterdir()) == []
    load(run.path).fit(data, run=run)
    plan = load(run.path).plan_
    assert all(run.status(s, plan) == "done" for s in plan.names)


# Keys


class Case:
    """A system with random weights, rows, and a run to keep what its frozen parts give."""

    def __init__(self, small, path, rows=100):
        self.config = small.estimator(JNFShared, 2).config
        with seeded(0, "system"):
            self.system = build_system(self.config).eval().requires_grad_(False)
        source = ArraySource(small.data(2, rows)[0])
        self.held = Table.of(source)
        self.streamed = Table.of(source, budget=0)
        self.run = RunDirectory.create(path, self.config)

    @property
    def columns(self):
        (flows,) = (spec for spec in stages_of(self.system) if spec.name == "flows")
        return flows.columns

    def cache(self, *, data="data", budget=0, **changes):
        plan = Plan(self.config.model_copy(update=changes), self.stages(**changes))
        return ColumnCache(self.run, plan.keys(Inputs(data)), data, budget)

    def stages(self, **changes):
        return stages_of(build_system(self.config.model_copy(update=changes)))

    def latents(self, rows, cache=None):
        (column,) = (c for c in self.columns if c.name == LATENTS)
        (found,) = with_cached_columns([column], [rows], cache)
        return found.gather(torch.arange(len(rows)))[f"cached/{LATENTS}"]


@pytest.fixture
def case(small, tmp_path):
    return Case(small, tmp_path / "run")


def assert_alike(first, second):
    at = torch.arange(len(first))
    found, expected = first.gather(at), second.gather(at)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("source", ["held", "streamed"])
def test_small_ones_stay_in_memory_and_large_ones_equal_them(case, source):
    table = getattr(case, source)
    tables = [table.subset(np.arange(70)), table.subset(np.arange(70, 100))]
    size = 4 * (2 * case.system.latent.dim * 100 + 2 * case.config.projector.dim * 100)
    expected = with_cached_columns(case.columns, tables, case.cache(budget=size))
    assert not case.run.arrays.exists()
    assert all(isinstance(c, TensorColumn) for t in expected for c in t.columns.values())
    found = with_cached_columns(case.columns, tables, case.cache(budget=size - 1))
    assert all(isinstance(c, MappedColumn) for t in found for c in t.columns.values())
    for first, second in zip(found, expected, strict=True):
        assert_alike(first, second)
        assert first.is_streamed
        batches = zip(first.batches(16), second.batches(16), strict=True)
        name = f"cached/{LATENTS}"
        assert all(torch.equal(a[name], b[name]) for a, b in batches)


def test_any_change_of_what_values_depend_on_computes_them_anew(case, computed):
    def is_new(rows=case.held, **settings):
        computed.clear()
        found = case.latents(rows, case.cache(**settings))
        assert torch.equal(found, case.latents(rows))
        assert len(list(case.run.arrays.iterdir())) == 1  # what was there made room
        return computed == [LATENTS]

    other_beta = {"joint": case.config.joint.model_copy(update={"beta": 9.0})}
    assert is_new()
    assert not is_new()
    assert not is_new(case.streamed)
    assert is_new(data="other")
    assert is_new(seed=5)
    assert is_new(**other_beta)
    assert not is_new(**other_beta, data="data")
    some = case.held.subset(np.arange(50))
    backwards = case.held.subset(np.arange(50)[::-1].copy())
    assert is_new(some)
    assert is_new(backwards)
    next(case.system.joint.heads["m0"].parameters()).add_(1)
    assert is_new(backwards)
    case.system.joint.latent_mean.add_(1)  # is not what q(z|X) rests on
    next(case.system.joint.decoders.parameters()).add_(1)
    assert not is_new(backwards)


def test_other_projectors_leave_the_latents(case, computed):
    with_cached_columns(case.columns, [case.held], case.cache())
    computed.clear()
    next(case.system.projectors["m1"].parameters()).add_(1)
    with_cached_columns(case.columns, [case.held], case.cache())
    assert computed == ["projections1"]


@pytest.mark.parametrize("held_has_b", [True, False])
def test_rows_that_lack_a_modality_have_zeros_and_its_mask_in_its_cached_column(
    case, tmp_path, held_has_b
):
    """Frozen outputs are computed of what is stored alone: of absent rows there is nothing."""
    rng, seen = np.random.default_rng(0), []
    x = {n: rng.normal(size=(30, w)).astype(np.float32) for n, w in (("a", 2), ("b", 3))}
    rows = np.arange(30)
    has = (rows % 3 > 0) & ((rows < 20) | held_has_b)
    train, held = (
        Table.of(ArraySource({n: v[at] for n, v in x.items()}, present={"b": has[at]}))
        for at in (rows < 20, rows >= 20)
    )

    def compute(values):
        seen.append(len(values))
        return 2 * values[:, :1] + 1

    column = CachedColumn("b", compute, (torch.nn.Identity(),), ("joint",), of="b")
    for cache in (None, ColumnCache(case.run, {"joint": "k"}, "d", 0)):
        seen.clear()
        tables = with_cached_columns([column], [train, held], cache)
        expected = np.where(has[:, None], 2 * x["b"][:, :1] + 1, 0)
        parts = [next(table.batches(30)) for table in tables]
        found = torch.cat([part["b"] for part in parts])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        masks = torch.cat([part["present/b"] for part in parts])
        np.testing.assert_array_equal(masks, has)
        assert max(seen) <= has.sum()


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 8
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_file_is_said_and_computed_anew(case, computed, caplog, damage):
    expected = case.latents(case.held, case.cache()).clone()
    (path,) = case.run.arrays.iterdir()
    damage(path)
    assert torch.equal(case.latents(case.held, case.cache()), expected)
    assert computed == [LATENTS, LATENTS]
    (line,) = caplog.messages
    assert line.startswith(f"{path} is missing or damaged (")
    assert line.endswith("): computed anew")


def test_an_interrupted_write_leaves_nothing_that_is_trusted(case, computed, monkeypatch):
    blocks = caching._blocks

    def interrupted(*args):
        yield from (block[:50] for block in blocks(*args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(caching, "_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            case.latents(case.held, case.cache())
    assert list(case.run.arrays.iterdir()) == []
    case.latents(case.held, case.cache())
    assert computed == [LATENTS, LATENTS]


def test_what_a_killed_process_left_is_removed(case):
    case.latents(case.held, case.cache())
    (path,) = case.run.arrays.iterdir()
    (case.run.arrays / f".{path.name}.a1").write_bytes(path.read_bytes()[:200])
    with case.run.lock():
        assert list(case.run.arrays.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(case):
    case.run.path.chmod(0o500)
    try:
        with pytest.raises(DataError, match=r"cannot write .*: permission denied"):
            case.latents(case.held, case.cache())
    finally:
        case.run.path.chmod(0o700)
