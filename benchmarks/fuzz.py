"""Damaged and forged files of runs, and random command lines: none crashes, hangs or surprises.

    python -m benchmarks.fuzz --cases 10000

Case n is the same in every run. A case passes if it ends within 10 s, with a result or with one
of mvflow's own sentences. Whatever is done to weights or a manifest, the weights that are loaded
are those that were trained; a configuration that is accepted has the values that its text has.
Stores have a harness of their own, `benchmarks.fuzz_stores`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from benchmarks.cases import SECONDS, main
from mvflow import load
from mvflow.config import config_from_dict, parse_toml, to_toml
from mvflow.core import MvflowError
from mvflow.runs import RunDirectory, read_json, weights_hash
from mvflow_cli.main import run as command
from mvflow_datasets import find_builder

ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 2**31, 2**63, 10**30, 10**5000, 1e308, -0.0)
ODD += (float("nan"), "", "x" * 70)
ODD += ("../a", "a\x1b[31m", "os:system", [], {}, [[]], {"kind": "maf"}, [0, "a"], {"": {}})
"""What is put in place of a value."""

SETTINGS = (
    *("joint.epochs=2", "joint.steps_per_epoch=2", "flows.epochs=1", "flows.steps_per_epoch=2"),
    *("evaluation.rows=20", "evaluation.prior_draws=20", "evaluation.importance_rows=2"),
    *("evaluation.importance_draws=4", "evaluation.sampler_rows=2", "sampler.warmup=2"),
    *("sampler.draws=2", "classifiers.epochs=1"),
)

WORDS = (
    *("new", "train", "train-joint", "fit-prior", "train-classifiers", "sample", "evaluate"),
    *("compare", "list", "convert", "data", "info", "verify", "build", "import", "trian", "RUN"),
    *("RUN", "STORE", "toy", "auto", "--help", "-h", "--json", "--debug", "--recipe", "--store"),
    *("--set", "--given", "--rows", "--n", "--seed", "--stage", "--device", "--subset", "--prior"),
    *(
        "--sampler",
        "--targets",
        "--split",
        "--modality",
        "--labels",
        "--system",
        "--out",
        "square",
    ),
    *("square", "square=STORE", "a=none.npy", "joint.epochs=1", "joint.epochs=x", "modalities=3"),
    *(
        "x.y.z=1",
        "posterior=maf",
        "posterior.kind=5",
        "seed=[[",
        "test:0:2",
        "test:9:1",
        "a:b:c",
        "-1",
    ),
    *(
        "0",
        "1",
        "1e9",
        "99999999999999999999",
        "",
        "-",
        "--",
        "=",
        "a\x1b[31m",
        "[b]",
        "ä",
        "x" * 300,
    ),
    *("cpu", "gpu", "meta", "jnf", "JNF", "joint", "flows", "product", "standard", "systems"),
)

LINES = (
    *((c, "RUN") for c in ("sample", "train", "compare", "convert", "report", "diagnose")),
    *(("data", "info", "STORE"), ("data", "verify", "STORE"), ("list", "priors")),
    *(
        ("new", "made", "--recipe", "toy", "--store", "STORE"),
        ("sample", "RUN", "--given", "square"),
    ),
    *(("data", "build", "toy", "t.h5", "--rows", "9"), ("evaluate", "RUN", "--split", "none")),
)


def prepare(folder: Path) -> None:
    """Make a small store, and a run that is trained on it."""
    store, run = folder / "toy.h5", folder / "run"
    find_builder("toy").build(store, rows=200, test_rows=40)
    chosen = [word for setting in SETTINGS for word in ("--set", setting)]
    with contextlib.redirect_stdout(io.StringIO()):
        code = command(["new", str(run), "--recipe", "toy", "--store", str(store), *chosen])
        code = code or command(["train", str(run)]) or command(["evaluate", str(run)])
    assert code == 0


def damage(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes overwritten, removed or doubled."""
    out, at = bytearray(data), rng.randrange(len(data))
    kind, size = rng.randrange(4), rng.choice([1, 1, 8, 100, 4096])
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at : at + size] = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
    elif kind == 2:
        del out[at : at + rng.choice([size, len(data)])]
    else:
        out[at:at] = rng.choice([out[:size], b"[" * size, b"9" * size, b'{"":' * size])
    return bytes(out)


def forge(rng: random.Random, values: Any) -> None:
    """Alter some values of parsed JSON or TOML, wherever they lie."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        node = values
        while node:
            at = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            inner = node[at]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
                how = rng.random()
                if how < 0.15 and isinstance(node, dict):
                    del node[at]
                elif how < 0.3 and isinstance(node, dict):
                    node[rng.choice(["", "kind", "x.y", "a\n", "epochs", "shape"])] = inner
                else:
                    node[at] = rng.choice(ODD)
                break
            node = inner


def forged_text(rng: random.Random, text: bytes, parse: Callable[..., Any], dump: Any) -> bytes:
    """Damaged bytes, or a text whose values were altered."""
    if rng.random() < 0.4:
        return damage(rng, text)
    values = parse(text.decode())
    forge(rng, values)
    try:
        return str(dump(values)).encode(errors="replace")
    except (TypeError, ValueError):  # TOML has no null, and Python no text of 5000 digits
        return damage(rng, text)


def weights(rng: random.Random, run: Path) -> str:
    """Weights are damaged, or written anew with other values, names or descriptions."""
    expected, file = _contents(run), run / rng.choice(["joint.safetensors", "flows.safetensors"])
    data = file.read_bytes()
    if rng.random() < 0.6:
        file.write_bytes(damage(rng, data))
    else:
        tensors = load_tensors(data)
        name = rng.choice(sorted(tensors))
        value = tensors[name].clone()
        others = [
            value * float("nan"),
            value.reshape(-1)[:0],
            value.double(),
            value.to(torch.float16),
            value,
        ]
        tensors[name] = rng.choice(others).contiguous()
        about: Any = {"about": {"key": "x"}, "sha256": weights_hash(tensors), "header_sha256": "0"}
        forge(rng, about)
        with contextlib.suppress(ValueError):
            header = {rng.choice(["mvflow", "mvflow", "x"]): json.dumps(about)}
            file.write_bytes(save_tensors(tensors, header))
    return _loaded(run, expected)


def manifest(rng: random.Random, run: Path) -> str:
    """The manifest is damaged or altered."""
    expected, file = _contents(run), run / "manifest.json"
    file.write_bytes(forged_text(rng, file.read_bytes(), json.loads, json.dumps))
    return _loaded(run, expected)


def _contents(run: Path) -> list[str]:
    model = load(run)
    return [weights_hash(dict(model.system_.state_dict()))]


def _loaded(run: Path, expected: list[str]) -> str:
    directory = RunDirectory.open(run)
    model = load(run)
    directory.require(model.stage_names, model.plan_)
    return "" if _contents(run) == expected else "other weights were loaded"


def config(rng: random.Random, run: Path) -> str:
    """The configuration is damaged or altered; what is accepted is what its text says."""
    file = run / "config.toml"
    text = forged_text(rng, file.read_bytes(), tomllib.loads, tomli_w.dumps)
    file.write_bytes(text)
    found = parse_toml(file)
    if config_from_dict(tomllib.loads(to_toml(found))) != found:
        return "the configuration is another once it was written"
    if differs := _differs(tomllib.loads(text.decode()), found.to_dict()):
        return f"{differs} is not what the text says"
    load(run)
    return ""


def _differs(raw: Any, found: Any, key: str = "") -> str:
    """The first key whose plain value is another than in the text."""
    if isinstance(raw, dict) and isinstance(found, dict):
        pairs = ((_differs(raw[k], found.get(k), f"{key}.{k}"), k) for k in raw)
        return next((inner for inner, _ in pairs if inner), "")
    if isinstance(raw, dict | list) or isinstance(found, dict | list):
        return ""
    same = raw == found or raw != raw or (isinstance(found, float) and found == float(raw))
    return "" if same else key or "it"


def history(rng: random.Random, run: Path) -> str:
    """A line of the history is damaged or altered; then training begins anew."""
    file = run / "history.jsonl"
    lines = file.read_bytes().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = forged_text(rng, lines[at], json.loads, json.dumps)
    file.write_bytes(b"\n".join(lines) + b"\n")
    for record in RunDirectory.open(run).history():
        if type(record["stage"]) is not str or type(record["epoch"]) is not int:
            return "a record of another shape"
    return _said(["train", str(run)])


def evaluation(rng: random.Random, run: Path) -> str:
    """The results of an evaluation are damaged or altered."""
    file = run / "metrics" / "evaluation.json"
    file.write_bytes(forged_text(rng, file.read_bytes(), json.loads, json.dumps))
    read_json(file)
    return _said(["compare", str(run)])


def words(rng: random.Random, run: Path) -> str:
    """Random words, or a command line some of whose words were altered."""
    if rng.random() < 0.3:
        line = [rng.choice(WORDS) for _ in range(rng.randrange(1, 7))]
    else:
        line = list(rng.choice(LINES))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            at = rng.randrange(len(line) + 1)
            line[at : at + rng.choice([0, 0, 1])] = [
                rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2]))
            ]
    names = {"RUN": str(run), "STORE": str(run.parent / "toy.h5")}
    line = [names.get(word, word.replace("STORE", names["STORE"])) for word in line]
    return _said(line)


def _said(line: list[str]) -> str:
    """What is wrong with what a command says; it runs in the folder of the case."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(line)
    text = err.getvalue()
    if (
        code not in (0, 1, 2)
        or re.search("unexpected [A-Z]", text)
        or "\x1b" in text + out.getvalue()
    ):
        return f"{line} -> {code}: {text.strip()[-200:]!r}"
    return ""


TARGETS = (weights, manifest, config, history, evaluation, words, words)


def case(number: int, folder: Path) -> str:
    """What is wrong with one case; empty if nothing is."""
    rng, begin = random.Random(number), time.process_time()
    target = TARGETS[number % len(TARGETS)]
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        run = shutil.copytree(folder / "run", here / "run")
        shutil.copyfile(folder / "toy.h5", here / "toy.h5")
        text = (run / "config.toml").read_text("utf-8")
        (run / "config.toml").write_text(text.replace(str(folder), str(here)), "utf-8")
        with contextlib.chdir(here):
            try:
                reason = target(rng, run)
            except MvflowError as error:
                reason = "" if str(error) and "\n" not in str(error) else f"no sentence: {error!r}"
            except Exception as error:
                reason = repr(error)[:300]
    if not reason and (seconds := time.process_time() - begin) > SECONDS:
        reason = f"{seconds:.0f} s"
    return f"{target.__name__}: {reason}" if reason else ""


def quiet(folder: Path, number: int) -> str:
    """`case` without the warnings of libraries."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    return case(number, folder)


def prepared(folder: Path) -> Callable[[int], str]:
    """What is wrong with a case, as a function of its number, after `prepare`."""
    torch.set_num_threads(1)
    prepare(folder)
    return partial(quiet, folder)


if __name__ == "__main__":
    main("Damaged and forged files of runs, and random command lines.", prepared)
