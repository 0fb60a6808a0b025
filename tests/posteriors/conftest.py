"""A plain optimiser, so that posteriors are tested without the training loop."""

import pytest
import torch

from mvflow.nn import seeded


def maximise(module, log_density, columns, steps, learning_rate, seed=0):
    """Adam with a one-cycle schedule on batches of 256 rows of tensors.

    Args:
        module: what is trained.
        log_density: rows of each column -> log densities, whose mean is maximised.
        columns: tensors with the same number of rows.
        steps: how many.
        learning_rate: the largest.
        seed: of the batches.
    """
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps)
    with seeded(seed, "fit"):
        for _ in range(steps):
            rows = torch.randint(len(columns[0]), (256,))
            optimiser.zero_grad()
            (-log_density(*(c[rows] for c in columns)).mean()).backward()
            optimiser.step()
            schedule.step()


@pytest.fixture(scope="session")
def fit():
    """`maximise`."""
    return maximise
