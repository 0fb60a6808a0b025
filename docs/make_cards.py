"""Make what the data cards show of built stores: a picture each, and cards.json.

python docs/make_cards.py toy.h5 mnist-svhn.h5 ...

Cards of other data sets stay as they are. `docs/hooks.py` puts them on the page.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mvflow_datasets import Store

HERE = Path(__file__).parent
CARDS = HERE / "data" / "cards.json"
PICTURES = HERE / "images" / "data"
LARGEST = 60_000
SIDE = 56
COLUMNS = 20


def main(paths):
    cards = json.loads(CARDS.read_text()) if CARDS.exists() else {}
    for path in paths:
        with Store.open(path) as store:
            found = store.info()
            cards[store.name] = {
                "bytes": found["bytes"],
                "parameters": store.builder["parameters"],
                "seed": store.builder["seed"],
                "note": store.note,
                "modalities": found["modalities"],
                "splits": found["splits"],
                "sources": store.sources,
                "picture": draw(store, PICTURES / f"{store.name}.png"),
            }
    CARDS.parent.mkdir(exist_ok=True)
    CARDS.write_text(json.dumps(dict(sorted(cards.items())), indent=1) + "\n")


def draw(store, path):
    """Save the first rows of each class, a line per modality, if all can be shown."""
    source = store[store.splits[-1]]
    rows = first_of_each_class(source)
    taken = source.take(rows)
    lines = [[tile(x) for x in taken[m.name]] for m in source.modalities]
    if any(t is None for line in lines for t in line):
        return None
    sheet = np.concatenate([np.concatenate(line, axis=1) for line in lines])
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32, 16):
        Image.fromarray(sheet).quantize(colours).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    return path.name


def first_of_each_class(source):
    if source.labels is None:
        return np.arange(COLUMNS)
    by_class = [np.flatnonzero(source.labels == y) for y in np.unique(source.labels)]
    return np.concatenate([rows[: COLUMNS // len(by_class)] for rows in by_class])


def tile(x):
    """One value as a picture `SIDE` pixels high with a thin frame, or None."""
    if x.ndim == 1 and x.dtype == np.float32 and x.size == 200:
        image = trajectory(x)
    elif x.ndim == 3 and x.dtype == np.uint8:
        colour = x.transpose(1, 2, 0) if x.shape[0] == 3 else np.repeat(x[0, ..., None], 3, -1)
        image = Image.fromarray(colour).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    elif x.ndim == 3 and x.shape[0] == 1:
        grey = np.uint8(255 * x[0].T[::-1])  # time to the right, low pitches below
        image = Image.fromarray(grey).convert("RGB").resize((SIDE, 2 * SIDE))
    else:
        return None
    return np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), constant_values=255)


def trajectory(x):
    """Points from blue, the first, to red, the last."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    pen = ImageDraw.Draw(image)
    for i, (a, b) in enumerate(x.reshape(2, -1).T * (4 * SIDE - 24) + 12):
        share = int(255 * i / (x.size // 2 - 1))
        pen.ellipse([a - 5, b - 5, a + 5, b + 5], fill=(share, 0, 255 - share))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1:])
