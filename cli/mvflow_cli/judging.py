"""What a run comes to, by the rules that all commands share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvflow_cli.output import say

if TYPE_CHECKING:
    from mvflow.estimators import Estimator
    from mvflow.evaluation import Calibration, Evaluation
    from mvflow.evaluation.verdicts import Judgement

__all__ = ["judge_run", "say_verdict", "verdict_lines"]


def judge_run(
    model: Estimator, evaluation: Evaluation | None, diagnosis: Calibration | None
) -> Judgement:
    """The judgement on a trained model by all that is known of it."""
    from mvflow.evaluation.learning import stage_curves
    from mvflow.evaluation.verdicts import judge

    curves = stage_curves(model.history_, model.config)
    return judge(model.config, evaluation, diagnosis, curves)


def verdict_lines(judgement: Judgement) -> Iterator[str]:
    """The verdict, then what to do."""
    yield f"verdict: {judgement.headline}"
    for advice in judgement.advice:
        yield f"- {advice}"


def say_verdict(judgement: Judgement) -> None:
    """Print the verdict and what to do."""
    for line in verdict_lines(judgement):
        say(line)
