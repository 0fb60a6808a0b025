"""The joint encoder of concatenated heads (paper E.3): each modality has its part of z."""

import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import ConfigError, Observed
from mvflow.systems import build_system


def config(latent, order=("a", "b", "c"), merge="concat"):
    modalities = {n: {"shape": [3], "encoder": {"kind": "mlp", "hidden": [4]}} for n in order}
    return config_from_dict(
        {
            "system": "jnf",
            "latent_dim": latent,
            "modalities": modalities,
            "joint": {"merge": merge},
        }
    )


def batch():
    rng = torch.Generator().manual_seed(0)
    return {n: torch.randn(5, 3, generator=rng) for n in "abc"}


def test_each_part_of_z_depends_on_its_modality_alone():
    joint, x = build_system(config(6)).joint, batch()
    before = joint.posterior(Observed(x)).base_dist
    for j, name in enumerate("abc"):
        after = joint.posterior(Observed({**x, name: x[name] + 1})).base_dist
        mine = torch.arange(6) // 2 == j
        for a, b in ((before.loc, after.loc), (before.scale, after.scale)):
            assert torch.equal(a[:, ~mine], b[:, ~mine])
            assert (a[:, mine] != b[:, mine]).all()


def test_the_head_gives_location_then_log_scale_of_its_part():
    joint, x = build_system(config(6)).joint, batch()
    loc, log_scale = joint.heads["b"](x["b"]).chunk(2, -1)
    q = joint.posterior(Observed(x)).base_dist
    assert torch.equal(q.loc[:, 2:4], loc)
    torch.testing.assert_close(q.scale[:, 2:4].log(), 7 * torch.tanh(log_scale / 7))


def test_it_has_no_parameters_and_no_order_matters():
    system = build_system(config(6))
    assert not list(system.joint.merge.parameters())
    turned, found = build_system(config(6, "cab")).state_dict(), system.state_dict()
    assert all(torch.equal(found[k], turned[k]) for k in found)


def test_the_merging_network_is_that_of_table_e6():
    merge = build_system(config(20, merge=[512, 512])).joint.merge
    expected = (3 * 40 * 512 + 512) + (512 * 512 + 512) + 2 * (512 * 20 + 20)
    assert sum(p.numel() for p in merge.parameters()) == expected


@pytest.mark.bad_input
def test_a_latent_that_cannot_be_shared_out_is_named():
    with pytest.raises(ConfigError, match="latent_dim 7 cannot be shared out among 3 modalities"):
        build_system(config(7))
