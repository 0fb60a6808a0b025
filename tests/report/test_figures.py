"""Parts of figures whose numbers can be checked."""

import numpy as np
import pytest
from matplotlib.textpath import TextPath

from mvflow import ArraySource, Modality
from mvflow.core import UNLABELLED, UsageError
from mvflow.evaluation.compare import ComparedSystem, Comparison
from mvflow.evaluation.reproductions import reproduction
from mvflow.metrics import Estimate
from mvflow.report.context import Context
from mvflow.report.figure_store import FigureStore
from mvflow.report.figures.canvas import DARK, as_svg, new_figure, style
from mvflow.report.figures.charts import loss_limits
from mvflow.report.figures.comparison import comparison_figure
from mvflow.report.figures.grids import Strip, row_grid
from mvflow.report.figures.latent import LatentScatter, density_levels
from mvflow.report.figures.sheet import FONT_SIZE, TILE, Sheet, known_values, plot_spec
from mvflow.report.sections.samples import choose_rows


def test_contours_hold_the_stated_mass():
    x = np.linspace(-6, 6, 301)
    log_density = -0.5 * (x[:, None] ** 2 + (x / 1.5) ** 2) + 7  # not normalised
    mass = np.exp(log_density) / np.exp(log_density).sum()
    held = [mass[log_density >= level].sum() for level in density_levels(log_density)[:-1]]
    np.testing.assert_allclose(held, [0.99, 0.9, 0.7, 0.45, 0.2], atol=0.01)


def test_density_that_is_nowhere_has_no_contours():
    assert density_levels(np.full((4, 4), -np.inf)) == []


@pytest.mark.parametrize("label", ["MMVAE", "WWWWWWWW: mnist", "i", "JNF-Shared (DCCA): svhn"])
def test_labels_end_before_the_pictures_begin(label):
    modality = Modality("a", (4, 4))
    values = np.ones((2, 4, 4), np.float32)
    with style():
        figure = row_grid([Strip(label, plot_spec(modality, values), values)])
        figure.canvas.draw()
        (axes,) = figure.axes
        extent = axes.texts[0].get_window_extent()
    first = np.flatnonzero(axes.images[0].get_array()[..., 3].any(0))[0]
    assert 0 < extent.x1 * 2 < first  # two pixels of the sheet to one of the page


@pytest.mark.parametrize(
    ("group", "first", "groups"),
    [(1, 0, "abcde"), (2, 0, "aabbc"), (2, 1, "abbcc"), (1, 2, "aabcd"), (3, 2, "aabbb")],
)
def test_what_is_conditioned_on_is_a_group_apart(group, first, groups):
    modality, values = Modality("a", (4, 4)), np.ones((1, 4, 4), np.float32)
    strips = [Strip(f"row {i}", plot_spec(modality, values), values) for i in range(5)]
    (axes,) = row_grid(strips, group, first).axes
    tops = [label.get_position()[1] for label in axes.texts]
    near = min(np.diff(tops)) if len({*groups}) < 5 else 0
    together = [bool(gap == near) for gap in np.diff(tops)]
    assert together == [a == b for a, b in zip(groups, groups[1:], strict=False)]
    assert tops[-1] < axes.get_ylim()[0]  # on the sheet


def test_no_letter_of_a_label_is_cut():
    """A J reaches to the left of where it is placed."""
    modality, values = Modality("a", (4, 4)), np.ones((1, 4, 4), np.float32)
    (label,) = row_grid([Strip("JMVAE", plot_spec(modality, values), values)]).axes[0].texts
    ink = TextPath((0, 0), "JMVAE", size=FONT_SIZE).get_extents().x0 * 200 / 72  # sheet's pixels
    assert ink < 0
    assert label.get_position()[0] + ink > 0


def test_absent_pixels_are_left_out_of_a_picture_and_of_its_scale():
    values = np.full((1, 4, 4), 5.0, np.float32)
    values[0, 0, 0], mask = 3.0, np.ones((1, 4, 4), bool)
    values[0, 3, 3], mask[0, 3, 3] = 0.0, False  # as a store holds it
    known = known_values({"a": values, "present/a": mask}, "a")
    spec = plot_spec(Modality("a", (4, 4)), known)
    assert (spec.low, spec.high) == (3.0, 5.0)
    sheet = Sheet(TILE, TILE)
    sheet.place(spec, known[0], 0, 0)
    corners = sheet.pixels[[2, 2, -3, -3], [2, -3, 2, -3]]
    assert corners[:, 3].tolist() == [255, 255, 255, 0]
    assert corners[:3, 0].tolist() == [0, 255, 255]


def test_absent_values_are_gaps_of_a_curve_and_no_bars():
    known = known_values(
        {"a": np.zeros((1, 3)), "present/a": np.array([[True, False, True]])}, "a"
    )
    sheet = Sheet(300, TILE)
    sheet.place(plot_spec(Modality("a", (3,)), known), known[0], 0, 0)
    assert np.isnan(sheet.lines[0][:, 1]).tolist() == [False, True, False]
    kinds = known_values({"k": np.array([0]), "present/k": np.array([False])}, "k")
    sheet.place(plot_spec(Modality("k", (2,), "categorical"), kinds), kinds[0], 0, 0)
    assert all(np.isnan(bar[1, 1]) for bar in sheet.bars)


def test_draws_of_rows_of_unknown_class_are_not_wrong(two):
    entries, classifiers = two
    context = Context(tuple(entries), FigureStore(), 0, classifiers)
    draws = entries[0].test.take(np.arange(4))["circle"][None]
    told = classifiers.predict("circle", draws[0])
    wrong = context.wrong("circle", draws, np.array([told[0], 1 - told[1], UNLABELLED, told[3]]))
    assert wrong.tolist() == [[False, True, False, False]]


@pytest.fixture
def compared():
    """All systems of Table 2 with two seeds."""
    keys = ("coherence/joint", "coherence/observed/1", "coherence/observed/2")
    keys += tuple(key.replace("coherence", "frechet/autoencoder") for key in keys)
    return Comparison(
        tuple(
            ComparedSystem(
                name,
                (0, 1),
                {k: [Estimate(0.1 * i + seed, 0.07) for seed in (0, 1)] for k in keys},
            )
            for i, name in enumerate(reproduction("table2").systems)
        ),
        (),
        "",
        (),
    )


def test_every_system_of_the_largest_table_has_its_own_colour_and_marker(compared):
    conditional, _, _ = comparison_figure(compared).axes
    shown = [line for line in conditional.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in shown] == [s.label for s in compared.systems]
    assert len({line.get_color() for line in shown}) == len(compared.systems)
    assert len({line.get_marker() for line in shown}) == len(compared.systems)


def test_every_point_has_its_error_and_the_mean_over_autoencoders_its_name(compared):
    *conditional, joint = comparison_figure(compared).axes
    count = len(compared.systems)
    for axes, bars in ((conditional[0], count), (conditional[1], count), (joint, 2 * count)):
        segments = [c.get_segments() for c in axes.collections]
        assert len(segments) == bars  # of the joint one across and up
        assert all(np.ptp(np.array(s), axis=1).max() > 0.1 for s in segments)
    assert conditional[1].get_ylabel() == "MFD"
    assert joint.get_xlabel().startswith("MFD")
    assert all(len(line.get_xdata()) == 2 for line in joint.lines)  # a dot for each seed


@pytest.fixture(params=["two", "many", "no distances"])
def unlabelled(request):
    """Two systems of rows without classes, with what `compare` knows of them."""
    sizes = range(1, 2 if request.param == "two" else 12)
    keys = {f"prediction/r2/{n}": 0.05 * n for n in sizes} | {"log_likelihood/joint": -20.0}
    if request.param == "two":
        keys |= {f"frechet/autoencoder/{d}": 7.0 for d in ("joint", "a->b", "b->a", "observed/1")}
    if request.param == "many":
        keys |= {f"frechet/autoencoder/observed/{n}": 20.0 - n for n in sizes}
        keys |= {"frechet/autoencoder/joint": 7.0}
    return [
        ComparedSystem(name, (0,), {k: [Estimate(f * v, 0.01)] for k, v in keys.items()})
        for name, f in (("MVAE", 1.0), ("a system with a long name", 0.5))
    ]


@pytest.mark.filterwarnings("error")
def test_without_classes_a_comparison_shows_all_that_was_measured(unlabelled):
    known = unlabelled[0].values
    with style():
        figure = comparison_figure(Comparison(tuple(unlabelled), (), "", ()))
        figure.draw_without_rendering()
        panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
        heads = [axes._left_title.get_window_extent() for axes in figure.axes]
    shown = {title.split(",")[0]: axes for title, axes in panels.items()}
    r2 = shown.pop("R² of tables").lines[0]
    want = [known[f"prediction/r2/{n}"][0].mean for n in range(1, len(r2.get_ydata()) + 1)]
    assert r2.get_ydata().tolist() == want
    assert len(want) == sum(key.startswith("prediction") for key in known)
    assert shown.pop("Log-likelihood").lines[0].get_ydata().tolist() == [-20.0]
    if "frechet/autoencoder/joint" in known:
        assert shown.pop("Draws from the prior").lines[0].get_ydata().tolist() == [7.0]
        several = [20.0 - n for n in range(1, 12)]
        distances = shown.pop("Conditional distance").lines[0].get_ydata().tolist()
        assert distances == (several if "prediction/r2/2" in known else [7.0, 7.0])
    assert not shown  # no empty panel
    assert all(a.x1 < b.x0 for a, b in zip(heads, heads[1:], strict=False))
    assert heads[-1].x1 <= figure.bbox.x1
    assert all(axes.bbox.width > 200 for axes in figure.axes)


def test_limits_hold_nearly_all_rows_on_one_scale():
    z = np.random.default_rng(0).normal(size=(1000, 2)) * [3, 1] + [5, 0]
    (left, right), (bottom, top) = LatentScatter(z, None, {}).limits()
    assert right - left == pytest.approx(top - bottom)
    inside = (z[:, 0] > left) & (z[:, 0] < right) & (z[:, 1] > bottom) & (z[:, 1] < top)
    assert inside.mean() > 0.99


def test_loss_axis_leaves_out_the_first_steps():
    low, high = loss_limits([1e6, *np.linspace(10, 2, 99)])
    assert low < 2
    assert 10 < high < 12
    assert loss_limits([]) is None
    assert loss_limits([float("nan"), None]) is None
    assert loss_limits([5.0])[0] < 5 < loss_limits([5.0])[1]


def test_pixels_of_a_picture_keep_their_values():
    value = np.zeros((1, 4, 4), np.uint8)
    value[0, 0, 1] = 255
    spec = plot_spec(Modality("m", (1, 4, 4)), value[None])
    sheet = Sheet(TILE, TILE)
    sheet.place(spec, value, 0, 0)
    quarter = TILE // 4
    assert (sheet.pixels[:quarter, quarter : 2 * quarter] == 255).all()
    assert sheet.pixels[..., :3].sum() == 255 * 3 * quarter**2
    assert (sheet.pixels[..., 3] == 255).all()  # opaque where there is a picture


@pytest.mark.parametrize(
    ("modality", "kind"),
    [
        (Modality("m", (1, 8, 4)), "image"),
        (Modality("m", (3, 8, 8)), "image"),
        (Modality("m", (8, 8)), "image"),
        (Modality("m", (2, 8, 8)), "curve"),
        (Modality("m", (200,)), "curve"),
        (Modality("m", (4,), "categorical"), "bars"),
    ],
)
def test_modalities_are_drawn_by_their_shape(modality, kind):
    rows = np.zeros((3, *modality.shape), np.float32)
    spec = plot_spec(modality, rows)
    assert spec.kind == kind
    sheet = Sheet(spec.width, TILE)
    sheet.place(spec, rows[0], 0, 0, wrong=True)
    sheet.figure()
    assert len(sheet.frames) == 1


def test_flat_rows_are_images_where_their_shape_is_given():
    rows = np.random.default_rng(0).random((3, 12)).astype(np.float32)
    flat, image = Modality("m", (12,)), Modality("m", (1, 3, 4))
    spec = plot_spec(flat, rows, (3, 4))
    assert spec.kind == "image"
    sheets = [Sheet(spec.width, TILE) for _ in range(2)]
    sheets[0].place(spec, rows[0], 0, 0)
    own = plot_spec(image, rows.reshape(3, 1, 3, 4))
    sheets[1].place(own, rows[0].reshape(1, 3, 4), 0, 0)
    assert own.width == spec.width
    np.testing.assert_array_equal(sheets[0].pixels, sheets[1].pixels)
    with pytest.raises(UsageError, match="'m' has 12 values: they do not fill an image of 3 x 5"):
        plot_spec(flat, rows, (3, 5))


def test_svg_follows_the_readers_choice_of_light_or_dark():
    with style():
        figure = new_figure(100, 100)
        figure.add_subplot().set_title("title")
        themed, plain = as_svg(figure, themed=True).decode(), as_svg(figure).decode()
    for light, dark in DARK.items():
        assert (f": {light}" in plain) <= (f": {light}" not in themed.split("</style>", 1)[1])
        assert dark in themed.split("</style>", 1)[0]
    assert "prefers-color-scheme" in themed
    assert "prefers-color-scheme" not in plain
    assert "fill: #ffffff" in plain  # a ground of its own, for files
    assert "fill: #ffffff" not in themed


def test_rows_are_shown_of_all_classes():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 47)
    source = ArraySource({"a": np.zeros((100, 2))}, labels=labels)
    chosen = labels[choose_rows(source, 8, 0)]
    assert chosen.tolist() == sorted(chosen)
    assert np.bincount(chosen).tolist() in ([3, 3, 2], [3, 2, 3])
    assert len(choose_rows(ArraySource({"a": np.zeros((5, 2))}), 8, 0)) == 5
