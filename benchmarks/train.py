"""Speed and memory of training by stage, against MultiVae's trainer; prints Markdown.

    python benchmarks/train.py                # all tables, about ten minutes
    python benchmarks/train.py --quick        # the same tables from next to nothing, a minute
    python benchmarks/train.py a --threads 2
    python benchmarks/train.py a --device cuda

a: samples per second of each stage with the networks and batch of Table E.6, turn by turn.
b: what a step and an epoch cost with 2, 5 and 10 modalities, and with more rows.
c: memory that the program says it needs before a stage, against what it is seen to use.
d: what importing the library and asking the program for help cost.

MultiVae 1.0.3 takes part in a where the interpreter that runs this finds it. Data are random.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that spins would count as work

import numpy as np
import torch
from common import Rows, about, markdown, turn_by_turn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mvflow.config import Config, config_from_dict, recipe
from mvflow.core import ArraySource, Modality
from mvflow.models import build_model
from mvflow.runs import write_json
from mvflow.training import Stage, Table, build_stage, run_stage
from mvflow.training.memory import predicted_memory, saved_bytes

BATCH, LATENT = 128, 20
STAGES = (
    ("joint", "jnf"),
    ("flows", "jnf"),
    ("flows", "jnf-shared"),
    ("projectors", "jnf-shared"),
)
HELP = "from mvflow_cli.main import main; main()"
PRECISIONS = ("float32", "bfloat16")
QUICK = {"turns": 2, "steps": 2, "threads": [1], "many": [2, 5]}


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.INFO)  # MultiVae announces every epoch
    out: dict[str, Any] = {
        "about": about("multivae", "pythae", device=_device(arguments)),
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("out", "parts")},
    }
    text = [f"# {__doc__.splitlines()[0].removesuffix('; prints Markdown.')}"]
    for part in arguments.parts or PARTS:
        began = time.perf_counter()
        out[part] = PARTS[part](arguments)
        text.append(f"{part}: {PARTS[part].__doc__}\n\n{markdown(out[part])}")
        print(f"\n{text[-1]}\n\n{time.perf_counter() - began:.0f} s", flush=True)
        write_json(arguments.out, out)
    versions = ", ".join(f"{n} {v}" for n, v in out["about"]["versions"].items() if v)
    run = f"Commit {out['about']['commit']}, {out['about']['date']}, {out['about']['device']}"
    footer = f"{run}, {versions}.\n\nColumns: see `benchmarks/README.md`.\n"
    arguments.out.with_suffix(".md").write_text("\n\n".join([*text, footer]))


# a


def stages(arguments: argparse.Namespace) -> Rows:
    """Table E.6, batch 128: medians over turns in which all take part."""
    out = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name, kind in STAGES:
            made = {f"mvflow, {p}": _stage(name, kind, p, arguments) for p in PRECISIONS}
            flop = {way: _flop(stage) for way, stage in made.items()}
            timed: dict[str, Callable[[], Any]] = {
                way: lambda s=stage: _synchronised(s) for way, stage in made.items()
            }
            if name != "projectors" and find_spec("multivae"):
                timed["MultiVae"] = _their_epoch(name, kind, made["mvflow, float32"], arguments)
            for run in timed.values():
                run()
            out += _rows(name, kind, threads, timed, flop, arguments)
            print(markdown(out[-len(timed) :]), flush=True)
    return out


def _rows(
    name: str,
    kind: str,
    threads: int,
    timed: Mapping[str, Callable[[], Any]],
    flop: Mapping[str, int],
    arguments: argparse.Namespace,
) -> Rows:
    products: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    seconds = turn_by_turn(
        dict(timed),
        arguments.turns,
        _both_clocks,
        lambda: [products[p].append(_matrix_products(p, arguments)) for p in PRECISIONS],
    )
    cpu, wall = ({w: [t[i] for t in each] for w, each in seconds.items()} for i in (0, 1))
    out = []
    for way in timed:
        row: dict[str, Any] = {"stage": name, "model": kind, "threads": threads, "way": way}
        row["samples/s"] = round(arguments.steps * BATCH / statistics.median(wall[way]))
        row["ms/step"] = _ms(wall[way], arguments.steps)
        row["CPU ms/step"] = _ms(cpu[way], arguments.steps)
        row["x MultiVae"] = row["x MultiVae, CPU"] = row["roofline"] = "-"
        if "MultiVae" in timed:
            row["x MultiVae"] = _ratio(wall["MultiVae"], wall[way])
            row["x MultiVae, CPU"] = _ratio(cpu["MultiVae"], cpu[way])
        if way in flop:
            fastest = statistics.median(products[way.removeprefix("mvflow, ")])
            rate = flop[way] * arguments.steps / statistics.median(cpu[way])
            row["roofline"] = f"{rate / fastest:.0%}"
        row["GFLOP/step"] = round(flop[way] / 1e9, 2) if way in flop else "-"
        out.append(row)
    return out


def _ms(seconds: list[float], steps: int) -> float:
    return round(1e3 * statistics.median(seconds) / steps, 1)


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """Median of the ratios of the turns: what was slow for one was slow for the other."""
    return round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)


def _both_clocks() -> np.ndarray:
    """CPU seconds of this process and seconds on the wall."""
    return np.array([time.process_time(), time.perf_counter()])


def _matrix_products(precision: str, arguments: argparse.Namespace) -> float:
    """FLOP per CPU second of a product of matrices (on a GPU: per second on the wall)."""
    a = torch.ones(1024, 1024, device=arguments.device, dtype=getattr(torch, precision))
    began = _both_clocks()
    for _ in range(4):
        a @ a
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    taken = _both_clocks() - began
    return 4 * 2 * 1024**3 / float(taken[0 if arguments.device == "cpu" else 1])


def _synchronised(stage: Stage) -> None:
    run_stage(stage)  # ends with the host reading the losses


def _flop(stage: Stage) -> int:
    """Additions and multiplications of one step, forward and backward."""
    rows = torch.arange(BATCH, device=stage.train.device)
    with FlopCounterMode(display=False) as counter:
        stage.loss(stage.train.gather(rows), 0.5).total.backward()
    stage.trainable.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def _config(kind: str, precision: str, changes: tuple[str, ...] = ()) -> Config:
    sections = [
        f"{section}.{key}={value}"
        for section in ("projectors", "joint", "flows")
        for key, value in (("batch_size", BATCH), ("epochs", 1), ("precision", precision))
    ]
    return config_from_dict(
        recipe("mnist-svhn", [f"model={kind}", "data.validation=0", *sections, *changes])
    )


def _stage(name: str, kind: str, precision: str, arguments: argparse.Namespace) -> Stage:
    config = _config(kind, precision)
    source = _random(config.specifications(), arguments.steps * BATCH)
    return _ready(name, config, source, arguments.device)


def _ready(name: str, config: Config, source: ArraySource, device: str) -> Stage:
    model = build_model(config).to(device).eval().requires_grad_(False)
    model.stage_module(name).requires_grad_(True)
    return build_stage(name, model, config, Table.of(source, device))


def _random(modalities: tuple[Modality, ...], rows: int) -> ArraySource:
    rng = np.random.default_rng(0)
    arrays = {m.name: rng.integers(0, 256, (rows, *m.shape), np.uint8) for m in modalities}
    return ArraySource(arrays, modalities)


# MultiVae


def _their_epoch(
    name: str, kind: str, ours: Stage, arguments: argparse.Namespace
) -> Callable[[], Any]:
    """One epoch of MultiVae's trainer in one stage: its JNF with the networks of Table E.6."""
    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.models import JNF, JNFConfig
    from multivae.trainers import MultistageTrainer, MultistageTrainerConfig
    from pythae.models.normalizing_flows.maf import MAF, MAFConfig

    shapes = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
    flow = MAFConfig(input_dim=(LATENT,), n_made_blocks=2, n_hidden_in_made=2, hidden_size=128)
    model = JNF(
        JNFConfig(
            n_modalities=2,
            latent_dim=LATENT,
            input_dims=shapes,
            decoders_dist=dict.fromkeys(shapes, "laplace"),
            decoder_dist_params={m: {"scale": 0.75} for m in shapes},
            uses_likelihood_rescaling=True,
            warmup=1,
            beta=2.5,
        ),
        **_their_networks(kind),
        flows={m: MAF(flow) for m in shapes},
    )
    rows = torch.arange(arguments.steps * BATCH)
    source = _random(_config("jnf", "float32").specifications(), len(rows))
    data = {m: torch.from_numpy(x).float() / 255 for m, x in source.take(rows.numpy()).items()}
    trainer = MultistageTrainer(
        model,
        MultimodalBaseDataset(data),
        training_config=MultistageTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            drop_last=True,
            no_cuda=arguments.device == "cpu",
        ),
    )
    trainer.callback_handler.callbacks.clear()  # no progress bar
    epoch = 1 if name == "joint" else 2
    if epoch == 2:
        trainer.prepare_train_step(2, torch.inf, torch.inf)
    return lambda: trainer.train_step(epoch)


def _their_networks(kind: str) -> dict[str, Any]:
    """Plain torch, as Table E.6 has them; for JNF-Shared, heads on frozen projectors."""
    from multivae.models.nn.base_architectures import BaseJointEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.latent_dim = body, LATENT

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.body(x).split(LATENT, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class JointEncoder(BaseJointEncoder):
        def __init__(self, heads: dict[str, nn.Module]) -> None:
            super().__init__()
            self.heads, self.latent_dim = nn.ModuleDict(heads), LATENT
            self.merge = _mlp(2 * 2 * LATENT, 512, 512, 2 * LATENT)

        def forward(self, x: dict[str, Tensor]) -> ModelOutput:
            features = torch.cat([head(x[name]) for name, head in self.heads.items()], -1)
            loc, log_variance = self.merge(features).split(LATENT, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.latent_dim = body, LATENT

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z))

    encoders = _networks(2 * LATENT)
    if kind == "jnf-shared":
        encoders = {
            name: nn.Sequential(body.requires_grad_(False), _mlp(10, 512, 512, 2 * LATENT))
            for name, body in _networks(10).items()
        }
    mnist = nn.Sequential(_mlp(LATENT, 400, 784), nn.Unflatten(1, (1, 28, 28)), nn.Sigmoid())
    svhn: list[nn.Module] = [nn.Unflatten(1, (LATENT, 1, 1))]
    for n_in, n_out, stride in ((LATENT, 128, 1), (128, 64, 2), (64, 32, 2), (32, 3, 2)):
        padding = (0, 1)[stride == 2]
        svhn += [nn.ConvTranspose2d(n_in, n_out, 4, stride, padding), nn.ReLU()]
    svhn[-1] = nn.Sigmoid()
    return {
        "encoders": {name: Encoder(body) for name, body in encoders.items()},
        "decoders": {"mnist": Decoder(mnist), "svhn": Decoder(nn.Sequential(*svhn))},
        "joint_encoder": JointEncoder(_networks(2 * LATENT)),
    }


def _networks(out: int) -> dict[str, nn.Module]:
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.ReLU()]
    return {
        "mnist": nn.Sequential(nn.Flatten(), _mlp(784, 400, out)),
        "svhn": nn.Sequential(*layers, nn.Conv2d(128, out, 4), nn.Flatten()),
    }


def _mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# b, c, d


def growth(arguments: argparse.Namespace) -> Rows:
    """Encoder and decoder of MNIST for each modality, one thread, float32: CPU ms."""
    torch.set_num_threads(1)
    cases = [(m, 1) for m in arguments.many] + [(arguments.many[0], k) for k in (2, 4)]
    timed: dict[str, Callable[[], Any]] = {}
    for name in ("joint", "flows"):
        for count, times in cases:
            rows = times * arguments.steps * BATCH
            timed[f"{name} {count} {rows}"] = _alike(name, count, rows, arguments.device)
    for run in timed.values():
        run()
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    seconds = turn_by_turn(timed, arguments.turns, clock)
    out = []
    for way, each in seconds.items():
        name, count, rows = way.split()
        row = {"stage": name, "modalities": int(count), "rows": int(rows)}
        epoch = 1e3 * statistics.median(each)
        per = epoch / int(rows) * BATCH
        row |= {"ms/epoch": round(epoch, 1), "ms/step": round(per, 2)}
        out.append(row | {"ms/step and modality": round(per / int(count), 2)})
    return out


def _alike(name: str, count: int, rows: int, device: str) -> Callable[[], Any]:
    base = _config("jnf", "float32").model_dump(mode="json")
    mnist = base["modalities"]["mnist"]
    config = config_from_dict({**base, "modalities": {f"m{i}": mnist for i in range(count)}})
    stage = _ready(name, config, _random(config.specifications(), rows), device)
    return lambda: run_stage(stage)


def memory(arguments: argparse.Namespace) -> Rows:
    """MiB said before the stage; on a GPU the allocator's peak, else a whole step's counted."""
    out = []
    for name, kind in STAGES:
        for precision in PRECISIONS:
            stage = _stage(name, kind, precision, arguments)
            said = predicted_memory(stage)
            seen = _seen(stage, arguments.device)
            row = {"stage": name, "model": kind, "precision": precision}
            row |= {part: round(size / 2**20, 2) for part, size in said._asdict().items()}
            row |= {"said": round(said.total / 2**20, 1), "seen": round(seen / 2**20, 1)}
            out.append(row | {"said / seen": round(said.total / seen, 3)})
    return out


def _seen(stage: Stage, device: str) -> int:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        run_stage(stage)
        return torch.cuda.max_memory_allocated()
    before = predicted_memory(stage)
    return before.total - before.activations + saved_bytes(stage, BATCH)


def imports(arguments: argparse.Namespace) -> Rows:
    """Fresh interpreters, seconds on the wall and CPU seconds, least of the turns."""
    ways = {
        "import torch": ["-c", "import torch"],
        "import mvflow": ["-c", "import mvflow"],
        "mvflow --help": ["-c", "import sys; sys.argv = ['mvflow', '--help']; " + HELP],
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(arguments.turns):
        for way, words in ways.items():
            began, cpu = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *words], check=False, capture_output=True)
            after = os.times()
            used = after.children_user - cpu.children_user
            used += after.children_system - cpu.children_system
            found[way].append((time.perf_counter() - began, used))
    return [
        {
            "what": way,
            "s": round(min(t[0] for t in each), 2),
            "CPU s": round(min(t[1] for t in each), 2),
        }
        for way, each in found.items()
    ]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "a": stages,
    "b": growth,
    "c": memory,
    "d": imports,
}


def _device(arguments: argparse.Namespace) -> str:
    if arguments.device == "cpu":
        return "cpu"
    return f"{arguments.device}: {torch.cuda.get_device_name(arguments.device)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="of an epoch: one turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="in part a")
    parser.add_argument("--many", type=int, nargs="+", default=[2, 5, 10], help="in part b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train-cpu.json"))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch sees no CUDA device here")
    for name, value in (QUICK if arguments.quick else {}).items():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
