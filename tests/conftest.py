"""Fixtures of all tests: the array libraries on which every formula runs, in float64."""

from importlib import import_module

import pytest
import torch

torch.set_num_threads(1)  # two threads on a busy machine are many times slower than one

BACKENDS = ["array_api_compat.numpy", "array_api_compat.torch", "array_api_strict"]
try:
    import jax
except ImportError:
    pass
else:
    jax.config.update("jax_enable_x64", True)
    BACKENDS.append("jax.numpy")


@pytest.fixture(scope="session", params=BACKENDS, ids=lambda name: name.split(".")[-1])
def xp(request):
    """Array API namespace; `xp.asarray(a)` brings a NumPy array there, `np.asarray` back."""
    return import_module(request.param)
