"""FIDs by weights that the user has: which are taken, which refused, and what they measure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvflow import JNF
from mvflow.core import ArraySource, DataError, Modality, UsageError
from mvflow.evaluation import InceptionFeatures, evaluate
from mvflow.evaluation.compare import EvaluatedRun, compare
from mvflow.nn import InceptionV3
from mvflow.runs import read_state_dict

HEADS = {
    "tensorflow": {"fc.weight": (1008, 2048), "fc.bias": (1008,)},
    "torchvision": {
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
        "AuxLogits.conv0.conv.weight": (128, 768, 1, 1),
        "AuxLogits.fc.bias": (1000,),
    },
}


def published(kind):
    """Random weights with the names and shapes of a published file, which has no counters."""
    torch.manual_seed(0)
    state = InceptionV3().state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return state | {name: torch.zeros(shape) for name, shape in HEADS[kind].items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.save(published("tensorflow"), folder / "tensorflow.pth")
    save_file(published("torchvision"), folder / "torchvision.safetensors")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_both_published_files_are_recognised_by_their_tensors(files, kind):
    found = InceptionFeatures.read(files[kind])
    assert ("TensorFlow" in found.about) == (kind == "tensorflow")
    assert read_state_dict(files[kind]).sha256 in found.about
    weights = published(kind)["Mixed_7c.branch_pool.conv.weight"]
    assert torch.equal(found.network.get_submodule("Mixed_7c.branch_pool.conv").weight, weights)
    expected = InceptionV3(tensorflow=kind == "tensorflow").eval()
    expected.load_state_dict(published(kind), strict=False)
    image = np.random.default_rng(0).integers(256, size=(1, 3, 8, 8), dtype=np.uint8)
    with torch.no_grad():
        made = expected(InceptionV3.prepared(torch.from_numpy(image / np.float32(255))))
    assert made.shape == (1, 2048)
    np.testing.assert_allclose(found.features("x", image), made.numpy(), rtol=1e-4, atol=1e-6)
    grey = found.features("x", image[:, :1])
    np.testing.assert_array_equal(grey, found.features("x", image[:, [0, 0, 0]]))
    np.testing.assert_allclose(
        grey, found.features("x", image[:, :1] / np.float32(255)), rtol=1e-4, atol=1e-6
    )


def other(change):
    state = published("tensorflow")
    change(state)
    return state


class Code:
    """Whatever would run when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda: torch.nn.Linear(3, 2).state_dict(), "'Conv2d_1a_3x3.conv.weight' is missing"),
        (lambda: other(lambda s: s.pop("Mixed_6c.branch1x1.bn.bias")), "6c.* missing.*192"),
        (lambda: other(lambda s: s.update({"fc.bias": torch.zeros(10)})), r"'fc.bias' is \(10,\)"),
        (lambda: other(lambda s: s.update(more=torch.zeros(1))), r"'more' is \(1,\), .* none"),
        (lambda: [torch.zeros(2)], "holds no weights but a list"),
        (lambda: Code(), "is refused: .* would run"),
        (lambda: torch.nn.Linear(1, 1), "is refused: .* would run"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, content, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save(content(), path)
    with pytest.raises(DataError, match=sentence) as error:
        InceptionFeatures.read(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.bad_input
def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DataError, match="there is no file"):
        InceptionFeatures.read(path)
    save_file({"a": torch.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="is damaged"):
        InceptionFeatures.read(path)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="truncated or not a file of torch.save"):
        InceptionFeatures.read(path)


class Pixels(InceptionFeatures):
    """Pixels in place of pool features: what goes where is the same, and quickly made."""

    def features(self, name, x):
        return np.asarray(x, np.float32).reshape(len(x), -1)


@pytest.fixture(scope="module")
def model():
    """Of an image and a table, trained for a moment."""
    specs = [Modality("image", (1, 3, 3), "bernoulli"), Modality("table", (3,))]
    rng = np.random.default_rng(0)
    data = {"image": rng.random((40, 1, 3, 3)), "table": rng.normal(size=(40, 3))}
    few = {"rows": 12, "prior_draws": 12, "importance_rows": 2, "importance_draws": 4}
    short = {"epochs": 1, "steps_per_epoch": 1}
    model = JNF(specs, latent_dim=2, joint=short, flows=short, evaluation=few)
    return model.fit(data), {name: values.astype("float32") for name, values in data.items()}


def test_images_have_fids_and_tables_have_none(model):
    estimator, data = model
    result = evaluate(estimator, ArraySource(data), None, [Pixels(None, "these weights")])
    assert result.networks == {"inception-v3": "these weights"}
    found = result.frechet["inception-v3"]
    assert found.features == 9
    assert set(found.conditional) == {"table->image"}
    assert set(found.joint) == set(found.real) == {"image"}
    assert found.mean.conditional == found.conditional["table->image"]
    assert found.mean.joint == found.joint["image"]
    assert set(result.diversity["inception-v3"].real) == {"image"}
    [system] = compare([EvaluatedRun("r", estimator.config, result, "")]).systems
    value = found.conditional["table->image"].mean
    for key in ("one->image", "table->image", "conditional", "observed/1"):  # as tables have it
        assert system.mean(f"frechet/inception-v3/{key}") == value


@pytest.mark.bad_input
def test_a_network_that_takes_no_modality_is_refused(model):
    class Sounds(Pixels):
        def accepts(self, modality):
            return False

    with pytest.raises(UsageError, match=r"inception-v3 can take.*table \(3,\)"):
        evaluate(model[0], ArraySource(model[1]), None, [Sounds(None, "")])
    features = InceptionFeatures(None, "")
    shapes = [(1, 8, 8), (3, 8, 8), (2, 8, 8), (64,)]
    assert [features.accepts(Modality("x", s)) for s in shapes] == [True, True, False, False]
