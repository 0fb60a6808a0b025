"""Judges that a user brings: known by their tensors, computed as published, others refused."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.nn import functional as F

from mvflow.config import Classifiers
from mvflow.core import ArraySource, DataError, Modality, UsageError
from mvflow.evaluation import (
    ModalityAutoencoders,
    ModalityClassifiers,
    judges,
    read_autoencoders,
    read_classifiers,
)
from mvflow.evaluation.published_networks import PUBLISHED
from mvflow.runs import read_state_dict

MHD = (
    Modality("image", (1, 28, 28)),
    Modality("sound", (1, 32, 128)),
    Modality("trajectory", (200,)),
)
# Names and shapes of the published files, written down by hand.
FILES = {
    ("classifier", (3, 28, 28)): {
        "encoder.0.weight": (10, 3, 4, 4), "encoder.0.bias": (10,),
        "encoder.3.weight": (20, 10, 4, 4), "encoder.3.bias": (20,),
        "encoder.7.weight": (128, 980), "encoder.7.bias": (128,),
        "encoder.10.weight": (10, 128), "encoder.10.bias": (10,),
    },
    ("classifier", (1, 28, 28)): {
        "cnn_1.weight": (16, 1, 5, 5), "cnn_1.bias": (16,),
        "cnn_2.weight": (32, 16, 5, 5), "cnn_2.bias": (32,),
        "fc1.weight": (128, 512), "fc1.bias": (128,), "fc2.weight": (64, 128), "fc2.bias": (64,),
        "out.weight": (10, 64), "out.bias": (10,),
    },
    ("autoencoder", (1, 28, 28)): {
        "encoder_conv.0.weight": (32, 1, 4, 4), "encoder_conv.2.weight": (64, 32, 4, 4),
        "encoder_linear.0.weight": (128, 3136), "encoder_linear.0.bias": (128,),
        "decoder_linear.0.weight": (3136, 128), "decoder_linear.0.bias": (3136,),
        "decoder_conv.0.weight": (64, 32, 4, 4), "decoder_conv.2.weight": (32, 1, 4, 4),
    },
}  # fmt: skip


def norm(name, width):
    keys = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (width,) for key in keys}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def dense(name, *widths):
    found = {}
    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        found |= linear(f"{name}.{3 * i}", a, b) | norm(f"{name}.{3 * i + 1}", b)
    return found


def sound(name):
    maps = {0: (128, 1, 1, 128), 3: (128, 128, 4, 1), 6: (256, 128, 4, 1)}
    found = {}
    for i, shape in maps.items():
        found |= {f"{name}.{i}.weight": shape} | norm(f"{name}.{i + 1}", shape[0])
    return found


FILES |= {
    ("classifier", (200,)): dense("network", 200, 512, 512, 128) | linear("out", 128, 10),
    ("classifier", (1, 32, 128)): sound("cnn")
    | dense("fc", 2048, 128, 64)
    | linear("fc.6", 64, 10),
    ("autoencoder", (200,)): dense("encoder", 200, 512, 512, 512)
    | linear("encoder.9", 512, 64)
    | dense("decoder", 64, 512),
    ("autoencoder", (1, 32, 128)): sound("encoder") | linear("encoder_fc", 2048, 512),
}


def weights(judge, shape, seed=0):
    """Random weights of a published file, activations of about unit size."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, size in FILES[judge, shape].items():
        values = rng.normal(size=size) / np.prod(size[1:]) ** 0.5
        found[name] = expit(values) if name.endswith("running_var") else values
    return found


def saved(path, judge, shape, checkpoint=False, change=None):
    found = weights(judge, shape) | (change or {})
    state = {k: torch.tensor(np.asarray(v), dtype=torch.float32) for k, v in found.items()}
    path.parent.mkdir(exist_ok=True)
    wrapped = {"state_dict": state, "epoch": 3, "best_loss": np.float64(1.5)}
    torch.save(wrapped if checkpoint else state, path)
    return path


def by_hand(judge, shape, w, x):
    """The published forward pass, with dropout off: scores, or the code."""

    def conv(name, x, stride=1, padding=0):
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, padding)

    def lin(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def bn(name, x):
        at = (slice(None),) + (None,) * (x.ndim - 2)
        mean, var, gain, shift = (
            w[f"{name}.{k}"][at] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5) ** 0.5 * gain + shift

    def leaky(x):
        return torch.where(x > 0, x, 0.01 * x)

    def blocks(name, x, count):
        for i in range(count):
            x = leaky(bn(f"{name}.{3 * i + 1}", lin(f"{name}.{3 * i}", x)))
        return x

    def maps(name, x):
        x = bn(f"{name}.1", conv(f"{name}.0", x)).relu()
        for i in (3, 6):
            x = bn(f"{name}.{i + 1}", conv(f"{name}.{i}", x, (2, 1), (1, 0))).relu()
        return x.flatten(1)

    if shape == (3, 28, 28):
        x = conv("encoder.3", conv("encoder.0", x, 2, 1).relu(), 2, 1).relu().flatten(1)
        return lin("encoder.10", lin("encoder.7", x).relu())
    if judge == "classifier" and shape == (1, 28, 28):
        for name in ("cnn_1", "cnn_2"):
            x = F.max_pool2d(conv(name, x).relu(), 2)
        return lin("out", lin("fc2", lin("fc1", x.flatten(1))))
    if judge == "classifier" and shape == (200,):
        return lin("out", blocks("network", x, 3))
    if judge == "classifier":
        return lin("fc.6", blocks("fc", maps("cnn", x), 2))
    if shape == (1, 28, 28):
        for i in (0, 2):
            x = conv(f"encoder_conv.{i}", x, 2, 1)
            x = x * torch.sigmoid(x)
        return lin("encoder_linear.0", x.flatten(1))
    if shape == (200,):
        return lin("encoder.9", blocks("encoder", x, 3))
    return lin("encoder_fc", maps("encoder", x))


@pytest.mark.parametrize(("judge", "shape"), FILES, ids=str)
def test_published_networks_compute_what_their_authors_wrote(tmp_path, judge, shape):
    """By the names in the files, in float64; also from a checkpoint."""
    path = saved(tmp_path / f"best_x_{judge}.pth.tar", judge, shape, checkpoint=True)
    [network] = [n for n in PUBLISHED if (n.judge, n.shape) == (judge, shape)]
    module = network.build(FILES[judge, shape]).double().eval()
    w = {k: torch.tensor(v) for k, v in weights(judge, shape).items()}
    module.load_state_dict({k: v for k, v in w.items() if "decoder" not in k}, strict=False)
    x = torch.from_numpy(np.random.default_rng(2).random((5, *shape)))
    with torch.no_grad():
        expected = by_hand(judge, shape, w, x)
        assert torch.allclose(module(x), expected, rtol=1e-10, atol=1e-12)
    if judge == "autoencoder":
        source = ArraySource({"x": x.numpy().astype(np.float32)}, [Modality("x", shape)])
        found = read_autoencoders([path], source)
        np.testing.assert_allclose(found.features("x", x.float()), expected, rtol=1e-3, atol=1e-4)
        assert found.about.startswith("x: Nexus'")


def test_classifiers_are_scored_on_the_test_rows(tmp_path):
    """Labels are what the classifier finds, but for one row in ten."""
    shape, folder = (3, 28, 28), tmp_path / "clf"
    w = {k: torch.tensor(v) for k, v in weights("classifier", shape).items()}
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(300, *shape)))
    scores = by_hand("classifier", shape, w, x)
    centre = scores.mean(0)  # so that random weights do not give all rows one class
    bias = {"encoder.10.bias": (w["encoder.10.bias"] - centre).numpy()}
    files = []
    for name in ("m0", "m1", "m2"):  # one more than there are modalities
        path = folder / f"pretrained_img_to_digit_clf_{name}"
        files.append(saved(path, "classifier", shape, change=bias))
    labels = (scores - centre).argmax(1).numpy()
    labels[::10] = (labels[::10] + 1) % 10
    values = x.numpy().astype(np.float32)
    specs = [Modality(name, shape) for name in ("m0", "m1")]
    source = ArraySource({"m0": values, "m1": values}, specs, labels=labels)
    found = read_classifiers([folder], source)
    assert found.accuracy == {"m0": 0.9, "m1": 0.9}
    assert f"m0: MoPoE's for PolyMNIST, SHA-256 {read_state_dict(files[0]).sha256}" in found.about
    classes, features = found.predict_with_features("m0", values)
    assert np.mean(classes == labels) == 0.9
    assert features.shape == (300, 128)
    named = read_classifiers([f"m1={files[0]}", files[0]], source)
    assert named.accuracy == found.accuracy


def test_shapes_say_for_which_modality_a_file_is(tmp_path):
    paths = [saved(tmp_path / f"{i}.pth", "autoencoder", m.shape) for i, m in enumerate(MHD)]
    rows = {m.name: np.zeros((2, *m.shape), np.float32) for m in MHD}
    found = read_autoencoders(paths[::-1], ArraySource(rows, MHD))
    assert [len(found.features(m.name, rows[m.name])[0]) for m in MHD] == [128, 512, 64]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Classifiers and autoencoders that mvflow has kept beside a store."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    data = {"a": labels[:, None] + 0.1 * rng.normal(size=(200, 3)), "b": rng.normal(size=(200, 2))}
    data["b"][:, 0] += 4 * labels
    rows = ArraySource({k: v.astype(np.float32) for k, v in data.items()}, labels=labels)
    folder = tmp_path_factory.mktemp("kept")
    settings = Classifiers(kind="mlp", hidden=(16,), epochs=40, dropout=0, batch_size=50)
    made = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mvflow.evaluation.autoencoders.STEPS", 20)
        for kind in (ModalityClassifiers, ModalityAutoencoders):
            path = folder / f"store.{kind.name}s.safetensors"
            made[path] = kind.train(rows, rows, settings, cache=path)
    return rows, made


def test_networks_that_mvflow_kept_are_read_as_they_are(kept):
    rows, made = kept
    (first, classifiers), (second, autoencoders) = made.items()
    found = read_classifiers([first], rows)
    assert found.accuracy == classifiers.accuracy
    assert "store.classifiers.safetensors, SHA-256" in found.about
    x = rows.take(np.arange(9))["a"]
    np.testing.assert_array_equal(found.features("a", x), classifiers.features("a", x))
    other = read_autoencoders([second], rows)
    np.testing.assert_array_equal(other.features("a", x), autoencoders.features("a", x))


@pytest.mark.bad_input
def test_judges_of_other_rows_are_refused(kept, tmp_path):
    rows, made = kept
    first, second = made
    other = ArraySource({"a": np.zeros((9, 3)), "c": np.zeros((9, 2))}, labels=np.arange(9) % 2)
    with pytest.raises(DataError, match=r"has no classifier for 'c' .* but those for a, b: name"):
        read_classifiers([first], other)
    wide = ArraySource({"a": np.zeros((9, 4)), "b": np.zeros((9, 2))}, labels=np.arange(9) % 2)
    with pytest.raises(DataError, match=r"for 'a' with rows of shape \(4,\), but one for other"):
        read_classifiers([first], wide)
    with pytest.raises(DataError, match="holds no classifiers that"):
        read_classifiers([second], rows)
    shuffled = np.random.default_rng(0).permutation(rows.labels)
    values = rows.take(np.arange(200))
    mixed = ArraySource({k: values[k] for k in "ab"}, labels=shuffled)
    with pytest.raises(
        DataError, match="of 'a' finds .* where chance finds 0.500: it is for other"
    ):
        read_classifiers([first], mixed)
    with pytest.raises(DataError, match="no labels"):
        read_classifiers([first], ArraySource({k: values[k] for k in "ab"}))


@pytest.mark.bad_input
def test_files_that_fit_no_modality_are_refused(tmp_path):
    image = saved(tmp_path / "image.pth", "classifier", (1, 28, 28))
    poly = saved(tmp_path / "poly.pth", "classifier", (3, 28, 28))
    rows = {m.name: np.zeros((2, *m.shape), np.float32) for m in MHD}
    mhd = ArraySource(rows, MHD, labels=np.arange(2))
    with pytest.raises(UsageError, match="no classifier for 'sound', 'trajectory': name a file"):
        read_classifiers([image], mhd)
    with pytest.raises(UsageError, match=r"MoPoE's .* \(3, 28, 28\), but the rows are image"):
        read_classifiers([poly], mhd)
    with pytest.raises(UsageError, match="are both for 'image': name one"):
        read_classifiers([image, f"image={poly}"], mhd)
    single = ArraySource({"image": rows["image"]}, MHD[:1], labels=np.arange(2))
    with pytest.raises(DataError, match=r"\(3, 28, 28\): those of 'image' have \(1, 28, 28\)"):
        read_classifiers([f"image={poly}"], single)
    with pytest.raises(
        DataError, match="holds no autoencoder that is known: its tensors are cnn_1"
    ):
        read_autoencoders([image], single)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file in .*empty has the name of a modality"):
        read_classifiers([tmp_path / "empty"], single)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "image-net.pth")
    with pytest.raises(DataError, match="is refused: .* would run torch"):
        read_classifiers([tmp_path / "image-net.pth"], single)
    with pytest.raises(DataError, match="there is no file"):
        read_classifiers([tmp_path / "image-none.pth"], single)


@pytest.mark.parametrize(("accuracy", "is_above"), [(0.746, False), (0.748, True), (0.3, False)])
def test_a_classifier_must_beat_the_commonest_class_by_three_standard_errors(
    accuracy, is_above, monkeypatch
):
    """Of 100 rows 60 have one class: chance is .6, its standard error .049."""
    labels = np.r_[np.zeros(60, int), np.ones(30, int), np.full(10, 2)]
    source = ArraySource({"a": np.zeros((100, 2), np.float32)}, labels=labels)
    made = ModalityClassifiers(torch.nn.ModuleDict(), {"a": accuracy}, 3)
    monkeypatch.setattr(judges, "_read", lambda *_: made)
    monkeypatch.setattr(ModalityClassifiers, "scored", lambda self, test, device: self)
    if is_above:
        assert read_classifiers(["file"], source).accuracy == {"a": accuracy}
        return
    with pytest.raises(DataError, match=f"finds {accuracy:.3f} .* where chance finds 0.600"):
        read_classifiers(["file"], source)


def test_names_of_modalities_in_files_have_any_case_and_folders_any_sign(tmp_path):
    file = saved(tmp_path / "kind=clf" / "x_image.pth", "autoencoder", (1, 28, 28))
    specs = [Modality("Image", (1, 28, 28))]
    source = ArraySource({"Image": np.zeros((2, 1, 28, 28), np.float32)}, specs)
    for given in (file, file.parent, f"Image={file}"):
        assert read_autoencoders([given], source).about.startswith("Image: Nexus'")


@pytest.mark.bad_input
def test_a_file_that_could_be_for_two_or_has_more_tensors_is_refused(tmp_path):
    shape = (1, 28, 28)
    specs = [Modality(name, shape) for name in ("a", "b")]
    rows = {m.name: np.zeros((2, *shape), np.float32) for m in specs}
    file = saved(tmp_path / "x.pth", "autoencoder", shape)
    with pytest.raises(UsageError, match=r"but the rows are a \(1, 28, 28\), b .*: say for which"):
        read_autoencoders([file], ArraySource(rows, specs))
    more = tmp_path / "more.pth"
    tensors = torch.load(file, weights_only=True)
    torch.save(tensors | {"head.weight": torch.zeros(2, 2)}, more)
    single = ArraySource({"a": rows["a"]}, specs[:1])
    assert read_autoencoders([file], single)
    with pytest.raises(DataError, match="holds no autoencoder that is known"):
        read_autoencoders([more], single)
