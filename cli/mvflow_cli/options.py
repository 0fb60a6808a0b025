"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Again",
    "AutoencoderFiles",
    "ClassifierFiles",
    "Compile",
    "CovariateValues",
    "Device",
    "Devices",
    "GivenFiles",
    "Guidance",
    "ImageShapes",
    "InceptionWeights",
    "IndexColumns",
    "Json",
    "MissingValues",
    "Nodes",
    "Precision",
    "PriorKind",
    "Protocol",
    "RunPath",
    "Seed",
    "Settings",
    "StageNames",
    "StorePath",
    "SubsetKind",
    "Threads",
    "Timeout",
    "parsed_image_shapes",
]

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", help="Where the store lies now, if it has moved.", show_default=False),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 and the like.")]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes on each machine, each with a GPU or on the CPU; as many as torchrun has "
        "started, else 1.",
        show_default=False,
    ),
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines, where srun starts the processes.")]
Timeout = Annotated[
    float,
    typer.Option(min=1, help="Seconds after which a process that does not answer is lost."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; by default as torch decides.", show_default=False),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="float32|bfloat16",
        help="Of the stages trained now; it is written to config.toml. By default as there.",
        show_default=False,
    ),
]
Compile = Annotated[
    str,
    typer.Option(
        metavar="auto|graph|torch|no",
        help="How training steps are computed. graph: each as one CUDA graph; torch: with losses "
        "compiled by torch.compile, which takes minutes; no: neither; auto: graph on a GPU.",
    ),
]
ClassifierFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--classifiers",
        metavar="[NAME=]FILE",
        help="Classifiers to judge by, in place of the store's own: a file that mvflow keeps "
        "beside a store; or published state dicts, one for each modality (repeat it, or name a "
        "folder): MoPoE's for PolyMNIST, Nexus' for MHD.",
        show_default=False,
    ),
]
AutoencoderFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--autoencoders",
        metavar="[NAME=]FILE",
        help="Autoencoders for the MFD, in place of the store's own, as --classifiers: Nexus' for "
        "MHD, or a file that mvflow keeps beside a store.",
        show_default=False,
    ),
]
InceptionWeights = Annotated[
    Path | None,
    typer.Option(
        "--inception",
        metavar="WEIGHTS",
        help="File with the weights of Inception-v3, for the FID of images: pytorch-fid's "
        "pt_inception-2015-12-05-6726825d.pth or torchvision's inception_v3_google-0cc3c7bd.pth. "
        "Nothing is downloaded.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
SubsetKind = Annotated[
    str | None,
    typer.Option(
        "--subset",
        metavar="KIND",
        help="What stands for q(z|x_S) of several modalities ('mvflow list subsets'); by default "
        "as in config.toml.",
        show_default=False,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="How much more than the posterior does draws follow what is given, for subset rules "
        "that have it: no posterior draws, but more typical ones. By default as in config.toml.",
        show_default=False,
    ),
]
PriorKind = Annotated[
    str | None,
    typer.Option(
        "--prior",
        metavar="KIND",
        help="What is drawn where nothing is given ('mvflow list priors'); by default as in "
        "config.toml.",
        show_default=False,
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="paper|paper-f3",
        help="Draw as the paper does: 100 steps of 10 leapfrogs of a fixed size, one chain a "
        "sample, products divided by the prior, no ball. paper divides |S|-1 times (Eq. 12), "
        "paper-f3 once (F.3). By default as in config.toml.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as in joint.epochs=50; may be repeated.",
        show_default=False,
    ),
]
StageNames = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        metavar="NAME",
        help="Train only this stage; may be repeated. By default all that are not done.",
        show_default=False,
    ),
]
Again = Annotated[
    bool, typer.Option("--again", help="Train from the beginning, whatever there is.")
]
GivenFiles = Annotated[
    list[str],
    typer.Option(
        "--given",
        metavar="NAME=FILE[:PART]",
        help="An observed modality, as 'mvflow data import' reads it and in the units of such "
        "files. May be repeated; rows that files name are paired by name.",
        show_default=False,
    ),
]
MissingValues = Annotated[
    str,
    typer.Option(
        "--missing",
        metavar="values|row|refuse",
        help="What an empty cell or NaN means: that value is absent, its whole row is, or it is "
        "refused.",
    ),
]
IndexColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--index",
        metavar="[NAME=]COLUMN|none",
        help="Column of a table that names its rows. By default the one of 'data import', or a "
        "first one without a name. May be repeated.",
        show_default=False,
    ),
]
ImageShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--image-shape",
        metavar="NAME=HEIGHTxWIDTH",
        help="Flat rows of a modality are shown as images, as in pix=16x15. May be repeated.",
        show_default=False,
    ),
]
CovariateValues = Annotated[
    list[str] | None,
    typer.Option(
        "--covariate",
        metavar="NAME=VALUE|FILE:COLUMN",
        help="Covariate of all rows, or one value a row from a column of a file (obs:COLUMN: of "
        "the first that is given), for a model that has some. May be repeated.",
        show_default=False,
    ),
]


def parsed_image_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, int]]:
    """Modality -> (height, width), out of texts such as `pix=16x15`."""
    shapes: dict[str, tuple[int, int]] = {}
    for text in texts or ():
        match = re.fullmatch(r"([^=]+)=([1-9][0-9]*)x([1-9][0-9]*)", text)
        if match is None:
            msg = (
                f"--image-shape {text!r} cannot be read: expected NAME=HEIGHTxWIDTH, "
                "as in pix=16x15"
            )
            raise typer.BadParameter(msg)
        if match[1] in shapes:
            msg = f"--image-shape names {match[1]!r} twice"
            raise typer.BadParameter(msg)
        shapes[match[1]] = int(match[2]), int(match[3])
    return shapes
