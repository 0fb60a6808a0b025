"""The trainable estimator: fit stages, share work between processes, keep weights in runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from mvflow.config import Config, config_from_dict
from mvflow.core import (
    Batch,
    Source,
    StageError,
    UsageError,
    as_source,
    check_seed,
    check_source,
    fingerprint,
)
from mvflow.estimators.configured import ConfiguredEstimator
from mvflow.estimators.devices import check_device
from mvflow.estimators.fitting import (
    check_fits,
    check_stages,
    config_for,
    restore_weights,
    train_stage,
)
from mvflow.estimators.scoring import Chunk
from mvflow.nn import torch_defaults
from mvflow.runs import Inputs, RunDirectory
from mvflow.training import (
    Callback,
    Callbacks,
    History,
    Processes,
    Progress,
    Record,
    Table,
    check_compile,
    free_memory,
)

__all__ = ["TrainableEstimator"]


class TrainableEstimator(ConfiguredEstimator):
    """An estimator that trains the stages of its system, saves them and loads them."""

    @torch_defaults()
    def fit(
        self,
        source: Source | Batch,
        *,
        seed: int | None = None,
        covariates: Mapping[str, Any] | None = None,
        present: Mapping[str, Any] | None = None,
        validation: Source | Batch | None = None,
        stages: Sequence[str] | None = None,
        run: RunDirectory | None = None,
        device: str = "cpu",
        callback: Callback | Sequence[Callback] | None = None,
        progress: bool = False,
        compile: str = "auto",
    ) -> Self:
        """Train all stages, or the named ones, in order.

        Args:
            source: training rows; a dict of arrays will do, or a data frame whose columns have two
                levels, modality and column.
            seed: replaces the configuration's seed; all stages are then trained anew.
            covariates: name -> (rows,) values that encoders and decoders see, where `source` is
                a dict of arrays. Where the configuration names none, these become its covariates:
                texts and whole numbers are levels, floats are numbers. A `Source` has its own.
            present: name -> bool (rows,), which rows have the modality, where `source` is a dict
                of arrays; what a row lacks is never read. NumPy's masked arrays say it too.
                Where rows lack modalities, the configuration becomes one that takes such rows.
            validation: held-out rows; by default a share of `source`.
            stages: names of stages to train, each from its initial weights; those that they
                need must have been trained. Stages that rest on what is trained anew are dropped.
            run: where to keep checkpoints, history and weights. A stage that was interrupted
                there goes on where it was, and ends as if it had never been interrupted.
            device: "cpu", "cuda", "cuda:1"..., or "auto": a GPU where there is one.
            callback: training callback, or several; see `mvflow.EarlyStopping`.
            progress: show a bar for each stage, in a terminal or a notebook.
            compile: "graph" captures each training step as a CUDA graph, "auto" does so on CUDA
                where it can, "torch" lets torch compile the losses, "no" does neither. Results
                are those of "no", up to rounding.

        Returns:
            This estimator.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            NumericsError: if a loss is not finite.
            StageError: if a stage is asked for before those it needs, or another seed for a part
                of the stages.
            UsageError: if there is no stage of a given name, no such way to compile, or the run
                has another configuration.

        Examples:
            >>> made = JNF(specs, latent_dim=2, joint=short, flows=short)
            >>> made.fit(rows, seed=0, stages=["joint"]).trained_
            ('joint',)
            >>> made.fit(rows, stages=["flows"]).trained_
            ('joint', 'flows')
        """
        compile_mode, device = check_compile(compile), check_device(device)
        seed = None if seed is None else check_seed(seed)
        specs = self.config.covariate_specs()
        train = as_source(
            source,
            self.modalities,
            covariates=covariates,
            covariate_specs=specs or None,
            present=present,
        )
        config = self._seeded(seed, stages)
        if covariates and not specs:
            new = {c.name: c.to_dict() for c in getattr(train, "covariates", {}).values()}
            config = config_from_dict({**config.model_dump(), "covariates": new})
            if not self.records_:
                self._set_config(config)
                self._build()
        specs = config.covariate_specs()
        check_fits(train, self.modalities, specs)
        held_out = None
        if validation is not None:
            held_out = as_source(validation, self.modalities, covariate_specs=specs)
            check_source(held_out, self.modalities, specs)
        config = self._for_rows(config, train, held_out, run)
        plan = self._plan()
        wanted = plan.names if stages is None else tuple(stages)
        for stage in wanted:
            plan.spec(stage)
        if run is not None and self._is_main_process:
            _check_same_config(run, config)
        state = dict(self.__dict__)
        try:
            return self._train(
                config, wanted, (train, held_out), run, device, callback, progress, compile_mode
            )
        except BaseException:
            if state["records_"] and state.get("system_") is not self.__dict__.get("system_"):
                self.__dict__ = state  # what was trained before stays as it was
            raise

    def _train(
        self,
        config: Config,
        wanted: Sequence[str],
        sources: tuple[Source, Source | None],
        run: RunDirectory | None,
        device: str,
        callback: Callback | Sequence[Callback] | None,
        progress: bool,
        compile_mode: Any,
    ) -> Self:
        train, held_out = sources
        if config != self.config:
            self._set_config(config)
            self._build()
        self._reset(wanted)
        plan = self.plan_
        self.system_.to(device)
        self.history_ = History(r for r in self.history_ if r["stage"] in self.records_)
        inputs = Inputs(fingerprint(train), None if held_out is None else fingerprint(held_out))
        if self._processes is not None:
            self._processes.assert_same_on_all_ranks(
                (self.config, inputs), "what is trained differs"
            )
        budget = free_memory(device)
        rows = Table.of(train, device, budget)
        validation_rows = None if held_out is None else Table.of(held_out, device, budget)
        several = callback if isinstance(callback, Sequence) else [callback] if callback else []
        to_train = [spec for spec in plan.stages if spec.name in wanted]
        check_stages(to_train, plan, rows, validation_rows)
        if run is not None and self._is_main_process:
            run.begin()
        with contextlib.ExitStack() as shown:
            bars = [shown.enter_context(Progress())] if progress and self._is_main_process else []
            for spec in to_train:
                record = train_stage(
                    spec,
                    self.system_,
                    plan,
                    rows,
                    validation_rows,
                    inputs=inputs,
                    trained=self.records_,
                    run=run if self._is_main_process else None,
                    callback=Callbacks([Record(self.history_), *several, *bars])
                    if self._is_main_process
                    else None,
                    processes=self._processes,
                    compile=compile_mode,
                )
                self.records_[spec.name] = record
        self.system_.eval().requires_grad_(False)
        return self

    def _for_rows(
        self, config: Config, train: Source, held_out: Source | None, run: RunDirectory | None
    ) -> Config:
        """The configuration that takes the rows, which may lack modalities."""
        fitting = config_for(config, train, *([] if held_out is None else [held_out]))
        if fitting == config:
            return config
        if run is not None:
            msg = (
                f"{run.path}/config.toml is for rows that have all modalities, but some rows lack "
                "one: make a run for these rows ('mvflow new')"
            )
            raise UsageError(msg)
        if not self.records_:
            self._set_config(fitting)
            self._build()
        return fitting

    def _seeded(self, seed: int | None, stages: Sequence[str] | None) -> Config:
        """The configuration with a seed, which all stages are then to be trained with."""
        if seed is None or seed == self.config.seed:
            return self.config
        kept = [n for n in self.trained_ if stages is not None and n not in stages]
        if kept:
            msg = (
                f"stage {kept[0]!r} was trained with seed {self.config.seed}: with seed {seed} "
                "all stages are trained anew, so leave stages= out, or the seed"
            )
            raise StageError(msg)
        return config_from_dict({**self.config.model_dump(), "seed": seed})

    def _reset(self, wanted: Sequence[str]) -> None:
        """Bring stages to their initial weights, and drop what was trained on them."""
        retrained = {*wanted, *self.plan_.after(wanted)} & {*self.trained_}
        if retrained:
            records = self.records_
            trained = {n: self.plan_.spec(n).module.state_dict() for n in records}
            self._build()
            for name, record in records.items():
                if name not in retrained:
                    self.plan_.spec(name).module.load_state_dict(trained[name])
                    self.records_[name] = record

    def distribute(self, processes: Processes | None) -> Self:
        """Train, draw, decode and score with several processes that all run the same program.

        Each takes a part of every batch in training, and some of the rows elsewhere; all get the
        result. Of the files of a run, the main process writes all.

        Args:
            processes: from `mvflow.training.connect`; None goes back to this one alone.

        Returns:
            This estimator.

        Examples:
            >>> model.distribute(None) is model
            True
        """
        self._processes = processes
        return self

    def save(self, path: str | Path) -> None:
        """Write a run directory that `mvflow.load` and every command read.

        Raises:
            UsageError: if something is there already.

        Examples:
            >>> model.save(folder / "saved")
            >>> again = load(folder / "saved")
            >>> bool((again.encode(x)[0] == model.encode(x)[0]).all())
            True
        """
        if not self.records_:
            self._check_fitted()
        run = RunDirectory.create(path, self.config)
        for stage, record in self.records_.items():
            run.finish(stage, self.plan_.spec(stage).module.state_dict(), record)
        for line in self.history_:
            run.append_history(line)

    def restore(self, run: RunDirectory, device: str = "cpu") -> Self:
        """Take the weights of all finished stages of a run directory.

        Examples:
            >>> model.save(folder / "restored")
            >>> run = RunDirectory.open(folder / "restored")
            >>> type(model).from_config(run.config()).restore(run).trained_
            ('joint', 'flows')
        """
        device = check_device(device)
        self._build()
        self.records_ = restore_weights(self.system_, self.plan_, run)
        self.history_ = History(run.history())
        self.system_.to(device).eval().requires_grad_(False)
        return self

    @property
    def _is_main_process(self) -> bool:
        return self._processes is None or self._processes.is_main_process

    def _map_chunks(self, work: Chunk, count: int) -> list[dict[str, NDArray[Any]]]:
        """The results of `work(0)` to `work(count - 1)`, which several processes share."""
        if self._processes is not None:
            return self._processes.map_shards(work, count)
        return [work(i) for i in range(count)]


def _check_same_config(run: RunDirectory, config: Config) -> None:
    """Check that a run was made for this configuration; where its store lies does not matter."""
    expected, existing = (c.model_dump(mode="json") for c in (config, run.config()))
    for each in (expected, existing):
        each["data"]["store"] = ""
    differing = [key for key in expected if expected[key] != existing.get(key)]
    if differing:
        msg = (
            f"{run.path}/config.toml is of another configuration ({', '.join(differing)} differ): "
            "make a run with RunDirectory.create(path, estimator.config)"
        )
        raise UsageError(msg)
