"""Retrieval among fashion products that no stage has seen: encoders against the frozen checkpoint, on the same queries.

    python -m experiments.fashion_retrieval --data DIR --encoder RUN/encoder... --cache DIR --out FILE

The encoders are seeds of one recipe: a figure is the mean over them, its interval a bootstrap over titles (products
of one title depend on each other). Titles search among all pictures and pictures among all titles; every item of the
title is right. A product's neighbour is the nearest other product of the whole catalogue; it is right if its article
type (or base colour) is the same. Frozen is hidden state 24 of the checkpoint at the encoder's size, mean over
positions, and the mean of the text model's last layer.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from data.files import write_json
from data.host import keep_freed_memory
from moon_encoder.checkpoint import encoder_info, load_encoder
from moon_encoder.dual_tower import DualInputs, DualTower
from moon_encoder.encoder import Encoder, Inputs
from moon_encoder.forms import Contents, Form
from moon_encoder.held_out import TEST, VALID
from moon_encoder.losses import unit
from moon_encoder.recall import interval, names, report, values
from moon_encoder.search import Held, Picked, SameCode, rank
from moon_encoder.shown import PLAIN, Shown, Views
from moon_encoder.trained_on import catalogue_columns, held_out_rule
from moon_encoder.valid_search import embed

FROZEN_STATE, FROZEN_WIDTH = 24, 1024
FORMS: tuple[Form, ...] = ("image", "title", "title+image")
COLUMNS = ("article_type", "base_colour")


def encoded(encoder: Encoder, shown: Shown) -> dict[str, torch.Tensor]:
    """Vectors (items, D) of all items in each form; every item of this catalogue has a title and a picture."""
    rows = np.arange(len(shown.contents))

    def inputs(form: Form, at: np.ndarray) -> Inputs:
        return shown.items(rows[at], form, PLAIN)

    return {form: embed(encoder, len(rows), partial(inputs, form)) for form in FORMS}


@torch.no_grad()
def frozen(encoder: DualTower, shown: Shown) -> dict[str, torch.Tensor]:
    """What the checkpoints make of all items before anything is trained; title+image: both, side by side."""
    assert encoder.vision is not None and [*(encoder.vision.config.pooled or {})][-1] == FROZEN_STATE
    images, titles = [], []
    for at in range(0, len(shown.contents), 256):
        inputs = shown.items(np.arange(at, min(at + 256, len(shown.contents))), "title+image", PLAIN)
        assert isinstance(inputs, DualInputs) and inputs.image_ready and inputs.text_ready
        images.append(inputs.image[:, -FROZEN_WIDTH:])  # joined states are scaled to length 1: the cosines are its own
        titles.append(inputs.text)
    image, title = unit(torch.cat(images).float()), unit(torch.cat(titles).float())
    return {"image": image, "title": title, "title+image": torch.cat([image, title], dim=1)}


def codes(contents: Contents, column: str) -> np.ndarray:
    """(items,) int64 codes of a column, -1 for null."""
    found = contents.dataset.items().collect()[column].fill_null("").to_numpy().astype(str)
    code = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return np.where(found == "", -1, code)


def asked(vectors: dict[str, torch.Tensor], mine: np.ndarray, contents: Contents, dim: int | None) -> dict[str, Any]:
    """Each task's queries (items) and their figures (Q, F); `mine`: (items,) bool of the held-out part."""
    held = {form: Held(v, dim=dim) for form, v in vectors.items()}
    title = np.unique(contents.titles.astype(str), return_inverse=True)[1]
    items = np.flatnonzero(mine)
    first = items[np.unique(title[items], return_index=True)[1]]
    found = {}
    if vectors["title"].shape[1] == vectors["image"].shape[1]:
        across = ("title-image", "title", "image", first), ("image-title", "image", "title", items)
        for name, query, gallery, rows in across:
            ranking = rank(Picked(held[query], rows), held[gallery], SameCode(title[rows], title))
            found[name] = rows, values(ranking)
    for column in COLUMNS:
        code = codes(contents, column)
        rows = items[code[items] >= 0]
        for form in ("image", "title+image"):
            ranking = rank(Picked(held[form], rows), held[form], SameCode(code[rows], code), own=rows)
            found[f"{column} by {form}"] = rows, values(ranking)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("experiments.fashion_retrieval", description="Fashion retrieval, compared.")
    parser.add_argument("--data", type=Path, required=True, help="prepared fashion_products")
    parser.add_argument("--encoder", type=Path, action="append", required=True, help="a folder; repeat for seeds")
    parser.add_argument("--cache", type=Path, help="folder for what the frozen parts make of pictures")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--out", type=Path, required=True, help="JSON of the figures")
    args = parser.parse_args()
    keep_freed_memory()
    dataset = Dataset(args.data)
    infos = [encoder_info(path) for path in args.encoder]
    rules = [held_out_rule(info) for info in infos]
    assert rules[0] is not None and all(rule == rules[0] for rule in rules), "the encoders hold out different products"
    contents = Contents.of(dataset, catalogue_columns(infos[0]))
    items = dataset.items().collect()
    mine = rules[0].parts(items) == (TEST if args.split == "test" else VALID)
    title = np.unique(contents.titles.astype(str), return_inverse=True)[1]
    category = items["master_category"].to_numpy().astype(str)
    found: dict[str, Any] = {"split": args.split, "items": int(mine.sum()), "torch": torch.__version__, "dims": {}}
    base: dict[str, Any] = {}
    vectors = []
    for path in args.encoder:
        encoder = load_encoder(path)
        shown = Shown(contents, encoder, Views(), 0, args.cache)  # pyright: ignore[reportCallIssue]
        vectors.append(encoded(encoder, shown))
        if not base and isinstance(encoder, DualTower):
            start = frozen(encoder, shown)
            base = asked(start, mine, contents, None)
            everything = asked(start, np.ones(len(mine), dtype=bool), contents, None)
            found["frozen on all items"] = {
                task: float(figures[:, 0].mean()) for task, (_, figures) in everything.items()
            }
    for dim in [*infos[0].matryoshka, infos[0].dim]:
        seeds = [asked(v, mine, contents, dim) for v in vectors]
        tasks: dict[str, Any] = {}
        for task, (rows, _) in seeds[0].items():
            mean = np.mean([seed[task][1] for seed in seeds], axis=0)
            whole = dim == infos[0].dim
            tasks[task] = report(mean, len(contents), category[rows] if whole else None, title[rows])
            tasks[task]["hr@1 by seed"] = [float(seed[task][1][:, 0].mean()) for seed in seeds]
            if task in base:
                gain = mean - base[task][1]
                low, high = interval(gain, title[rows])
                tasks[task]["frozen"] = report(base[task][1], len(contents), None, title[rows])
                tasks[task]["minus frozen"] = {
                    name: {"value": float(gain[:, i].mean()), "low": float(low[i]), "high": float(high[i])}
                    for i, name in enumerate(names())
                }
            shown_figures = "  ".join(
                f"{key} {tasks[task][key]['value']:.4f} [{tasks[task][key]['low']:.4f}, {tasks[task][key]['high']:.4f}]"
                for key in ("hr@1", "hr@10", "mrr")
            )
            more = tasks[task].get("minus frozen", {}).get("hr@1")
            gained = more and f"hr@1 minus frozen {more['value']:+.4f} [{more['low']:+.4f}, {more['high']:+.4f}]"
            print(f"{dim:>4} {task:<28} {shown_figures}  {gained or ''}", flush=True)
        found["dims"][str(dim)] = tasks
    write_json(args.out, found)


if __name__ == "__main__":
    main()
