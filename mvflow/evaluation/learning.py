"""Loss curves read: which stages overfitted, which still learned, which had settled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.config import Config

__all__ = ["StageCurve", "stage_curves", "stage_settings", "training_advice"]

Trend = Literal["overfits", "diverges", "falls", "settled", "unknown"]

BURN_IN = 0.1
"""Share of the first epochs that the scale of a curve leaves out."""
RISE = 0.02
"""Rise of the held-out loss, as a share of the scale, that is more than noise."""
FALL = 0.01
"""Fall within the last tenth of the epochs, as such a share, from which on more would help."""


class StageCurve(NamedTuple):
    """Losses of one stage by epoch.

    Args:
        stage: its name.
        train: mean loss of the training rows.
        held_out: of the held-out rows; empty if there were none.
        keeps_best: whether the model has the weights of the best epoch, not of the last.
        section: of the configuration, with the stage's settings; by default of the same name.
        has_family: whether a family of posteriors can be chosen.

    Examples:
        >>> curve = StageCurve("joint", [9, 5, 3, 2, 1], [9, 6, 5, 6, 8], keeps_best=False)
        >>> curve.best_epoch, curve.trend
        (3, 'overfits')
    """

    stage: str
    train: Sequence[float]
    held_out: Sequence[float]
    keeps_best: bool
    section: str = ""
    has_family: bool = True

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(self.train)

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest held-out loss, counted from 1; the last without held-out."""
        return int(np.argmin(self._smooth)) + 1 if len(self.held_out) else self.epochs

    @property
    def rise(self) -> float:
        """Held-out loss of the last epoch above the best one, as a share of the curve's scale.

        Three standard deviations of the noise are taken off: of that between epochs in either
        curve. Where the training loss itself is noisy (random times and noise of few rows), the
        held-out loss of a fixed few is known no better.
        """
        if not len(self.held_out):
            return 0.0
        smooth = self._smooth
        noise = max(_noise(self.held_out), _noise(self.train))
        return max(0.0, float(smooth[-1] - smooth.min()) - 3 * noise) / self._scale

    @property
    def excess(self) -> float:
        """The same of the weights that the model has: 0 if they are those of the best epoch."""
        return 0.0 if self.keeps_best else self.rise

    @property
    def gap(self) -> float:
        """Held-out above training loss at the last epoch, as such a share; as `excess`."""
        if self.keeps_best or not len(self.held_out):
            return 0.0
        return max(0.0, float(self._smooth[-1] - self.train[-1])) / self._scale

    @property
    def trend(self) -> Trend:
        """What the end of the curve shows."""
        if not len(self.held_out):
            return "unknown"
        if self.rise > RISE:
            middle = (self.best_epoch - 1 + self.epochs) // 2
            return "overfits" if self.train[-1] <= self.train[middle] else "diverges"
        smooth, tenth = self._smooth, max(1, self.epochs // 10)
        falls = self.epochs > 1 and smooth[-1 - tenth] - smooth[-1] > FALL * self._scale
        return "falls" if falls else "settled"

    @property
    def is_rescued(self) -> bool:
        """Whether the loss rose again, but the weights are those of the best epoch."""
        return self.keeps_best and self.rise > RISE

    @property
    def _smooth(self) -> NDArray[np.float64]:
        """Running median over a fortieth of the epochs."""
        from scipy.ndimage import median_filter

        values = np.nan_to_num(np.asarray(self.held_out, np.float64), nan=np.inf)
        return np.asarray(median_filter(values, 2 * (len(values) // 80) + 1, mode="nearest"))

    @property
    def _scale(self) -> float:
        """Range of the held-out loss after the first epochs."""
        kept = self._smooth[int(BURN_IN * len(self.held_out)) :]
        return float(np.ptp(kept)) or 1.0


def _noise(values: Sequence[float]) -> float:
    """Standard deviation of independent noise about a smooth curve; 0 where it is too short.

    Of such noise third differences have 20 times the variance, and of a smooth curve hardly any.
    Half of them are of the end, where loss curves bend less.
    """
    differences = np.abs(np.diff(np.asarray(values, np.float64), 3))
    late = differences[len(differences) // 2 :]
    return 1.48 * float(np.nanmedian(late)) / 20**0.5 if len(late) > 2 else 0.0


def stage_curves(history: Iterable[Mapping[str, Any]], config: Config) -> list[StageCurve]:
    """Curves of all stages of a history, in order.

    Args:
        history: records of all epochs (`RunDirectory.history`, `Estimator.history_`).
        config: tells which stages keep the weights of their best epoch.
    """
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for record in history:
        by_stage.setdefault(record["stage"], []).append(record)
    curves = []
    for stage, records in by_stage.items():
        held_out = [(r.get("validation") or {}).get("loss") for r in records]
        section, settings = stage_settings(config, stage)
        keeps_best = getattr(settings, "keeps_best", False)
        known = [] if None in held_out else [float(v) for v in held_out if v is not None]
        train = [float(r["loss"]) for r in records]
        is_best, has_family = keeps_best and bool(known), hasattr(config, "posterior")
        curves.append(StageCurve(stage, train, known, is_best, section, has_family))
    return curves


def stage_settings(config: Config, stage: str) -> tuple[str, Any]:
    """Section with the settings of a stage: that of its name, or the part of that kind."""
    if hasattr(config, stage):
        return stage, getattr(config, stage)
    parts = ((n, part) for n, part in vars(config).items() if getattr(part, "kind", None) == stage)
    return next(parts, (stage, None))


def training_advice(curves: Iterable[StageCurve], stages: Collection[str] | None = None) -> str:
    """What to do about the training of some stages, as the end of their loss curves tells.

    Args:
        curves: of all stages.
        stages: those that matter; None for all.

    Examples:
        >>> curve = StageCurve("joint", [9, 5, 3, 2, 1], [9, 6, 5, 6, 8], keeps_best=False)
        >>> training_advice([curve])
        'the joint stage overfitted after epoch 3 of 5: fewer latents, more dropout'
    """
    chosen = [c for c in curves if stages is None or c.stage in stages]
    if not chosen:
        return "train for more epochs: no losses are kept"
    order = list(ADVICE)
    known = [c for c in chosen if c.trend in ADVICE]
    if not known:
        return "hold rows out (data.validation): their loss tells whether to train longer or less"
    worst = min(known, key=lambda c: (c.is_rescued, order.index(c.trend), -c.rise))
    at, words = f"epoch {worst.best_epoch} of {worst.epochs}", ADVICE[worst.trend]
    if worst.is_rescued:
        words = "the {stage} stage overfitted after {at}, whose weights were kept: more dropout"
    if worst.trend == "settled" and worst.has_family:
        words += ", or a richer posterior family"
    return words.format(stage=worst.stage, section=worst.section or worst.stage, at=at)


ADVICE: dict[Trend, str] = {
    "diverges": "the {stage} stage got worse after {at}: a smaller {section}.learning_rate",
    "overfits": "the {stage} stage overfitted after {at}: fewer latents, more dropout",
    "falls": "the {stage} stage still learned at its end: raise {section}.epochs",
    "settled": "training had settled: wider networks",
}
