"""What augmentations change, what they leave, and which stages see it."""

import numpy as np
import pytest
import torch

from mvflow import JNF, JNFShared
from mvflow.augmentations import ImageAugmentation, TableAugmentation
from mvflow.core import ConfigError, Modality, Observed, UsageError
from mvflow.nn import seeded
from mvflow.systems.augmenting import augmented

STILL = {"shift": 0, "rotation": 0, "scale": 0}
UNLIT = {"contrast": 0, "brightness": 0, "colour": 0}


def augment(augmentation, x, seed=0):
    with seeded(seed, "augment"):
        return augmentation.augment(x)


def ramps(rows=6, height=24, width=32):
    """Images that rise by 1 a pixel to the right, and by 2 downwards."""
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (2.0 * i + j).expand(rows, 1, height, width).clone()


def gradients(x):
    """Mean slopes down and to the right in the middle of images, (rows, 2)."""
    middle = x[:, 0, 9:15, 12:20]
    return torch.stack([middle.diff(dim=1).mean((1, 2)), middle.diff(dim=2).mean((1, 2))], -1)


def test_nothing_set_is_nothing_changed():
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(augment(ImageAugmentation(**STILL, **UNLIT), x), x)
    assert torch.equal(augment(TableAugmentation(noise=0, dropout=0), x), x)


def test_a_shift_moves_whole_pixels_and_no_further_than_said():
    x, shift = ramps(200), 0.25
    moved = augment(ImageAugmentation(shift=shift, rotation=0, scale=0, **UNLIT), x)
    difference = (moved - x)[:, 0, 9:15, 12:20]
    # the ramp is a line: each image moves by one number, at most 6 rows of 2 and 8 columns of 1
    spread = difference.amax((1, 2)) - difference.amin((1, 2))
    assert float(spread.max()) < 1e-3
    assert 10 < float(difference.abs().max()) <= 20


def test_a_rotation_turns_slopes_in_pixels_and_keeps_their_length():
    """Also in images that are not square."""
    turned = gradients(
        augment(ImageAugmentation(shift=0, rotation=30, scale=0, **UNLIT), ramps(50))
    )
    np.testing.assert_allclose(turned.norm(dim=-1), np.sqrt(5), rtol=1e-4)
    angles = torch.rad2deg(torch.atan2(turned[:, 0], turned[:, 1])) - np.rad2deg(np.arctan2(2, 1))
    assert 25 < float(angles.abs().max()) <= 30 + 1e-3
    assert float(angles.min()) < -10 < 10 < float(angles.max())


def test_a_change_of_size_scales_slopes():
    scaled = gradients(
        augment(ImageAugmentation(shift=0, rotation=0, scale=0.2, **UNLIT), ramps(50))
    )
    sizes = np.sqrt(5) / scaled.norm(dim=-1)
    np.testing.assert_allclose(scaled[:, 0] / scaled[:, 1], 2, rtol=1e-4)
    assert 0.8 - 1e-4 <= float(sizes.min()) < 0.9
    assert 1.1 < float(sizes.max()) <= 1.2 + 1e-4


def test_contrast_keeps_the_mean_and_colour_what_differs_within_a_channel():
    x = torch.rand(8, 3, 6, 6)
    only = ImageAugmentation(**STILL, **{**UNLIT, "contrast": 0.5})
    changed = augment(only, x)
    torch.testing.assert_close(changed.mean((1, 2, 3)), x.mean((1, 2, 3)))
    ratio = changed.std((1, 2, 3)) / x.std((1, 2, 3))
    assert float((ratio - 1).abs().max()) <= 0.5 + 1e-5
    changed = augment(ImageAugmentation(**STILL, **{**UNLIT, "colour": 0.5}), x) - x
    torch.testing.assert_close(changed, changed[..., :1, :1].expand_as(x))
    assert float(changed[:, 0].sub(changed[:, 1]).abs().max()) > 0.01


def test_inversion_is_its_own_inverse_and_as_frequent_as_said():
    x = torch.rand(2000, 1, 2, 2)
    always = ImageAugmentation(**STILL, **UNLIT, inversion=1)
    torch.testing.assert_close(augment(always, augment(always, x)), x)
    unit = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(augment(always, unit), 1 - unit)
    changed = augment(ImageAugmentation(**STILL, **UNLIT, inversion=0.3), x)
    share = float((changed != x).flatten(1).any(1).float().mean())
    assert abs(share - 0.3) < 0.05  # five standard errors of 2,000 rows


def test_what_a_table_drops_is_another_row_s_value():
    x = torch.randn(500, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    changed = augment(TableAugmentation(noise=0, dropout=1), x)
    torch.testing.assert_close(changed.sort(0).values, x.sort(0).values)
    assert float((changed != x).float().mean()) > 0.99
    share = float((augment(TableAugmentation(noise=0, dropout=0.2), x) != x).float().mean())
    assert abs(share - 0.2) < 0.05
    noise = augment(TableAugmentation(noise=0.5, dropout=0), x) - x
    np.testing.assert_allclose(noise.std(0) / x.std(0), 0.5, rtol=0.15)  # five standard errors


@pytest.mark.parametrize("kind", [ImageAugmentation(), TableAugmentation()])
def test_the_seed_decides_and_rows_differ(kind):
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(augment(kind, x), augment(kind, x))
    assert not torch.equal(augment(kind, x), augment(kind, x, seed=1))
    changes = augment(kind, x) - x
    assert not torch.equal(changes[0], changes[1])


@pytest.mark.parametrize(
    ("kind", "modality", "why"),
    [
        ("image", Modality("a", (4,)), "is for images of numbers"),
        ("table", Modality("a", (4,), "categorical"), "its class: leave it out"),
        ("table", Modality("a", (4,), "poisson"), "likelihood 'poisson'.*set noise=0"),
    ],
)
def test_modalities_that_cannot_be_augmented_are_refused(kind, modality, why):
    other = Modality("b", (2,))
    model = JNF([modality, other], latent_dim=2, networks={"a": {"augmentation": kind}})
    with pytest.raises((ConfigError, UsageError), match=why):
        model.facts()


BLIND = {"kind": "table", "noise": 0, "dropout": 1}
"""Rows that have nothing of their own left."""


@pytest.mark.parametrize("subset", ["product", "amortised", "matching"])
@pytest.mark.parametrize("kind", [JNF, JNFShared])
def test_conditions_are_augmented_and_latents_are_not(small, kind, subset):
    """From rows that say nothing a posterior learns what all have in common."""
    data, labels = small.data(2)
    rule = {"kind": subset, "summary_hidden": [8], "embedding": 4, "width": 8}
    rule = {k: v for k, v in rule.items() if k == "kind" or subset != "product"}
    rule = {k: v for k, v in rule.items() if k != "width" or subset == "matching"}
    quick = {"epochs": 30, "batch_size": 32, "learning_rate": 1e-2}
    options = {"flows": {**quick, "summary_hidden": [8]}, "subset": {**rule, **quick}}
    if subset == "product":
        options["subset"] = rule
    apart = []
    for augmentation in ("none", BLIND):
        networks = {"m0": {"augmentation": augmentation}}
        model = small.estimator(kind, 2, **options, networks=networks).fit(data, seed=0)
        means = model.transform({"m0": data["m0"]}, n=20)
        between = np.linalg.norm(means[labels == 0].mean(0) - means[labels == 1].mean(0))
        apart.append(between / model.sample_latent({"m0": data["m0"]}, 20).std())
    assert apart[1] < 0.5 * apart[0]  # what the classes have apart is what x tells


def test_what_does_not_see_augmented_rows_stays_trained(small):
    data, _ = small.data(2)
    model = small.estimator(JNFShared, 2).fit(data, seed=0)
    modalities = model.config.model_dump()["modalities"]
    modalities["m0"]["augmentation"] = {"kind": "table"}
    assert model.with_settings(modalities=modalities).trained_ == ("joint",)


@pytest.mark.parametrize("by", ["rows", "values"])
def test_absent_values_are_never_read(by):
    """Whatever stands there; what is swapped in from there is the mean of the others."""
    present = torch.tensor([True, True, False, True])
    if by == "values":
        present = present[:, None] & torch.tensor([[True, True]] * 3 + [[False, True]])
    x = torch.tensor([[1.0, 10.0], [2.0, 20.0], [-1.0, -1.0], [3.0, 30.0]])
    made = []
    for absent in (torch.nan, 7.0):
        values = torch.where(present.view(4, -1), x, absent)
        with seeded(0, "augment"):
            rows = augmented(Observed({"a": values}, {"a": present}), {"a": TableAugmentation()})
        made.append(rows.x["a"])
    assert torch.equal(*made)
    assert made[0].isfinite().all()
