"""What is said of memory: where rows are, the measured peak, a shortage."""

import logging
import re
import resource

import pytest
import torch
from torch import nn

from mvflow.config import Training
from mvflow.core import StageError
from mvflow.stages import Losses
from mvflow.training import Stage, Table, TensorColumn, run_stage


def stage(extra=lambda: 0.0):
    module = nn.Linear(2**18, 1)

    def loss(batch, progress):
        total = module(batch["x"]).square().mean() + extra()
        return Losses(total, {"error": total})

    table = Table({"x": TensorColumn(torch.zeros(4, 2**18), None)}, 4)
    return Stage("joint", module, loss, Training(epochs=2, batch_size=2), table)


def test_rows_and_the_peak_after_the_first_epoch_are_logged(caplog):
    with caplog.at_level(logging.INFO, "mvflow.training"):
        run_stage(stage())
    rows, peak = (r.message for r in caplog.records)
    assert rows == "joint: 4 rows, resident on cpu (4.0 MiB)"
    said = int(re.fullmatch(r"joint: peak memory (\d+) MiB after one epoch", peak).group(1))
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # which only grows
    assert said <= round(now) <= said + 64


def test_a_shortage_of_memory_is_one_sentence():
    with pytest.raises(StageError) as caught:
        run_stage(stage(lambda: torch.empty(2**50, dtype=torch.uint8)[0]))
    assert str(caught.value) == (
        "stage 'joint' ran out of memory on cpu with 2 rows a batch: choose a smaller "
        "joint.batch_size, or free memory that others hold there"
    )


def test_other_errors_of_a_loss_stay_what_they_are():
    def broken():
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        run_stage(stage(broken))
