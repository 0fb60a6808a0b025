"""Captured functions are the eager ones; what needs a GPU is skipped without one."""

import pytest
import torch
from torch import nn

from mvflow.nn import CapturedFunction, capture_stream, captured, concurrently, seeded

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
POINTS, DIM = 64, 5


def networks(count=3):
    with seeded(0, "networks"):
        return [
            nn.Sequential(nn.Linear(DIM, 16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(count)
        ]


def value_and_grad(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = network(x).square()[:, 0]
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def test_calls_are_made_in_their_order():
    made = []
    calls = [lambda i=i: made.append(i) or i for i in range(4)]
    assert concurrently(calls) == made == [0, 1, 2, 3]


def test_no_calls_have_no_results():
    assert concurrently([]) == []


def test_on_a_cpu_nothing_is_captured():
    def twice(x):
        return (2 * x,)

    assert captured(twice, torch.ones(3)) is twice


@on_gpu
@pytest.mark.gpu
def test_a_captured_function_gives_the_bits_of_the_function():
    parts = [network.cuda() for network in networks()]

    def together(x):
        found = concurrently([lambda n=n: value_and_grad(n, x) for n in parts])
        values, grads = zip(*found, strict=True)
        return torch.stack(values).sum(0), torch.stack(grads).sum(0)

    points = torch.randn(4, POINTS, DIM, device="cuda")
    function = captured(together, points[0])
    assert isinstance(function, CapturedFunction)
    found = [function(x) for x in points]  # outputs are kept while others are computed
    for x, each in zip(points, found, strict=True):
        for value, expected in zip(each, together(x), strict=True):
            assert torch.equal(value, expected)


@on_gpu
@pytest.mark.gpu
def test_gradients_of_branches_add_up():
    """What one branch computes is read by all others, and gradients meet again."""
    parts = [network.cuda() for network in networks(4)]
    x = torch.randn(POINTS, DIM, device="cuda")
    first = nn.Linear(DIM, DIM).cuda()

    def loss():
        shared = first(x)
        return torch.stack(
            concurrently([lambda n=n: n(shared).square().mean() for n in parts])
        ).sum()

    weights = [*first.parameters(), *(p for part in parts for p in part.parameters())]
    expected = torch.autograd.grad(loss(), weights)
    graph = torch.cuda.CUDAGraph()
    with capture_stream(x.device) as stream:
        for _ in range(3):
            torch.autograd.grad(loss(), weights)
        with torch.cuda.graph(graph, stream=stream):
            found = torch.autograd.grad(loss(), weights)
    for _ in range(3):
        graph.replay()
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)


@on_gpu
@pytest.mark.gpu
def test_what_reads_a_value_stays_as_it_is_and_cuda_in_order():
    def reads(x):
        return (x * (2 if x.sum().item() > 0 else 1),)

    x = torch.ones(3, device="cuda")
    assert captured(reads, x) is reads
    assert torch.equal(captured(lambda x: (2 * x,), x)(x)[0], 2 * x)
