"""Networks that judge, from files that the user brings, for all commands that evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mvflow.core import Source
    from mvflow.evaluation import InceptionFeatures, ModalityAutoencoders, ModalityClassifiers

__all__ = ["JudgeFiles"]


class JudgeFiles(NamedTuple):
    """Files with networks that measure.

    Args:
        inception: weights of Inception-v3.
        classifiers: in place of the store's; see `mvflow.evaluation.read_classifiers`.
        autoencoders: in place of the store's.
    """

    inception: Path | None = None
    classifiers: Sequence[str] = ()
    autoencoders: Sequence[str] = ()

    def options(self) -> list[str]:
        """The words of `mvflow evaluate` that name the files."""
        words = [] if self.inception is None else ["--inception", str(self.inception)]
        words += [word for given in self.classifiers for word in ("--classifiers", given)]
        return words + [word for given in self.autoencoders for word in ("--autoencoders", given)]

    def read(
        self, test: Source, *, device: str = "cpu"
    ) -> tuple[ModalityClassifiers | None, ModalityAutoencoders | None, list[InceptionFeatures]]:
        """The networks, None for the store's own.

        Raises:
            MvflowError: if a file is another network, or one for other rows.
        """
        from mvflow.evaluation import InceptionFeatures, read_autoencoders, read_classifiers

        files, weights = self.classifiers, self.inception
        return (
            read_classifiers(files, test, device=device) if files else None,
            read_autoencoders(self.autoencoders, test, device=device)
            if self.autoencoders
            else None,
            [] if weights is None else [InceptionFeatures.read(weights, device=device)],
        )

    def check(self, runs: Iterable[Path]) -> None:
        """Refuse files that cannot judge the runs, before these are trained.

        Raises:
            MvflowError: as `read`.
        """
        from mvflow.runs import RunDirectory
        from mvflow_cli.opening import open_store

        if not any(self):
            return
        opened = [(run, run.config()) for run in map(RunDirectory.open, runs)]
        for run, config in {config.data.test: (run, config) for run, config in opened}.values():
            with open_store(run, config) as store:
                self.read(store[config.data.test])
