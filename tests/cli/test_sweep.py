"""`mvflow sweep`."""

import json

import pytest

from mvflow.runs import RunDirectory, read_tensors

SHORT = (
    *("--set", "joint.epochs=1", "--set", "joint.steps_per_epoch=3"),
    *("--set", "projectors.epochs=1", "--set", "projectors.steps_per_epoch=1"),
    *("--set", "flows.epochs=1", "--set", "flows.steps_per_epoch=1"),
)
GROUPS = ("--variant", "model=jnf", "--variant", "model=jnf-shared,projectors.kind=dcca")


@pytest.fixture
def swept(mvflow, store, tmp_path):
    """Run a short sweep: swept("out", words...) -> the folder and what was said."""

    def call(name, *words):
        out = tmp_path / name
        found = mvflow("sweep", store, "--recipe", "toy", *SHORT, "--out", out, *words)
        return out, found

    return call


def test_each_variant_is_an_ordinary_run(swept, mvflow):
    words = ("--seeds", "0,3", "--set", "joint.beta=0.5,2.5", *GROUPS)
    out, found = swept("a", *words)
    assert found.code == 0, found
    assert "8 of 8 runs are trained" in found.out
    assert "joint: 4 variants in turn: a CPU gains little" in found.out
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 8
    assert names[0] == "model=jnf,beta=0.5,seed=0"
    assert names[-1] == "model=jnf-shared,kind=dcca,beta=2.5,seed=3"
    config = RunDirectory.open(out / names[-1]).config()
    assert (config.seed, config.joint.beta, config.model) == (3, 2.5, "jnf-shared")
    trained = mvflow("train", out / names[-1])
    assert trained.code == 0
    assert trained.out.count("done already") == 3
    again = json.loads(swept("a", *words, "--json")[1].out)
    how = {s["how"] for run in again["runs"] for s in run["stages"].values()}
    assert how == {"done"}
    weights = [read_tensors(out / n / "joint.safetensors")[0] for n in (names[0], names[4])]
    assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])


def test_a_variant_is_what_mvflow_new_and_train_make(swept, make, mvflow):
    out, found = swept("a", "--seeds", "7", "--set", "flows.hidden=[8, 8],[4]", "--json")
    assert found.code == 0, found
    result = json.loads(found.out)
    assert [run["name"] for run in result["runs"]] == ["hidden=[8,_8],seed=7", "hidden=[4],seed=7"]
    assert result["runs"][1]["stages"]["joint"]["how"] == "shared"
    settings = [w for w in SHORT if w != "--set"]
    path = make("alone", "--seed", "7", settings=(*settings, "flows.hidden=[4]"))
    assert mvflow("train", path).code == 0
    for stage in ("joint", "flows"):
        ours = read_tensors(out / "hidden=[4],seed=7" / f"{stage}.safetensors")[0]
        theirs = read_tensors(path / f"{stage}.safetensors")[0]
        assert all((ours[k] == theirs[k]).all() for k in theirs)


def test_stacked_on_request(swept):
    _, found = swept("a", "--seeds", "0,1", "--stack", "always")
    assert found.code == 0, found
    assert "joint: 2 variants as one program" in found.out
    assert "flows: 2 variants as one program" in found.out


def test_one_that_fails_is_said_and_the_others_are_trained(swept):
    _, found = swept("a", "--set", "joint.learning_rate=0.001,1e30", "--json")
    assert found.code == 1
    runs = json.loads(found.out)["runs"]
    assert runs[0]["error"] is None
    assert "not finite" in runs[1]["error"]
    assert "has failed" in found.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--seeds", ""), "expected whole numbers"),
        (("--seeds", "0,x"), "cannot read --seeds '0,x'"),
        (("--seeds", "0,1,0"), "has seed 0 twice"),
        (("--set", "joint.betta=1,2"), "did you mean 'beta'?"),
        (("--set", "joint.beta="), "has an empty value"),
        (("--set", "joint.beta=1,,2"), "has an empty value"),
        (("--set", "joint.beta=1,1"), "has 1 twice"),
        (("--set", "joint.beta"), "expected section.key=value"),
        (("--set", "joint.beta=1,many"), "joint.beta"),
        (("--set", "joint.beta=1", "--set", "joint.beta=2,3"), "joint.beta is set twice"),
        (("--variant", "jnf"), "cannot read --variant 'jnf'"),
        (("--variant", "model=jnf-share"), "model"),
        (("--variant", "model=jnf", "--set", "model=jnf"), "model is set twice"),
        (("--variant", "model=jnf", "--variant", "model=jnf"), "would both be called"),
        (("--stack", "allways"), "did you mean 'always'?"),
        (("--set", "data.train=train,test"), "must be those of all variants"),
        (("--device", "cuda:99"), "cannot be used here"),
    ],
)
def test_wrong_use_is_one_sentence(refused, store, tmp_path, words, hint):
    call = ("sweep", store, "--recipe", "toy", "--out", tmp_path / "a", *words)
    assert hint in refused(*call, code=2)
    assert not (tmp_path / "a").exists()


def test_a_folder_with_other_settings_is_refused(swept, refused, store, tmp_path):
    short = ("--set", "joint.epochs=0", "--set", "flows.epochs=0", "--seeds", "0")
    out = tmp_path / "a"
    call = ("sweep", store, "--recipe", "toy", "--out", out)
    assert swept("b", "--seeds", "0")[1].code == 0
    other = ("sweep", store, "--recipe", "toy", "--out", tmp_path / "b", *short)
    assert "choose another --out" in refused(*other, code=2)
    (out / "seed=0").mkdir(parents=True)
    (out / "seed=0" / "note").write_text("mine")
    assert "is not a run directory" in refused(*call, *short, code=2)


def test_help_shows_an_example(mvflow):
    found = mvflow("sweep", "--help")
    assert found.code == 0
    assert "Example: mvflow sweep" in found.out
