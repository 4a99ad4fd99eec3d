"""Poster search on the held-out films: encoders against the frozen checkpoint and against their start, paired.

    python -m experiments.poster_search --data DIR --checkpoint DIR --start RUN --run RUN... --out FILE

The frozen checkpoint is read as its page says: hidden state 24 at 160 pixels, mean over positions. START is a run of
`moon encoder posttrain` with train.epochs 0 (the whitening alone), from which the other runs began; each prefix of a
run is compared with the same prefix of the start. Several runs may be seeds of one recipe, NAME-s0, NAME-s1, ...: their
mean is compared as well, each query by its mean over the seeds.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from data.files import write_json
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder
from moon_encoder.config import DualTowerConfig
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.held_out import HeldOut
from moon_encoder.pairs import CoOccurrence
from moon_encoder.posttrain_config import Search
from moon_encoder.recall import interval, names, report, values
from moon_encoder.shown import Shown, Views
from moon_encoder.valid_search import SearchTask

SEARCH = Search(query="image", item="image", source="given", queries=1_000_000)  # pyright: ignore[reportCallIssue]
COMPARED = ("hr@1", "hr@10", "mrr")
FROZEN = "frozen"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("experiments.poster_search", description="Poster search of encoders, compared.")
    parser.add_argument("--data", type=Path, required=True, help="prepared movielens_posters")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the MobileNet checkpoint")
    parser.add_argument("--start", type=Path, required=True, help="run of the whitening alone")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a post-training run; repeat it")
    parser.add_argument("--cache", type=Path, help="folder for what the frozen parts make of pictures")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--out", type=Path, required=True, help="JSON of the figures")
    args = parser.parse_args()
    runs = [args.start, *args.run]
    rules = [HeldOut.model_validate(encoder_info(r / "encoder").facts["config"]["held_out"]) for r in runs]
    assert all(rule == rules[0] for rule in rules), "the encoders hold out different films"
    contents = Contents.of(Dataset(args.data), Catalogue())  # pyright: ignore[reportCallIssue]
    parts = rules[0].parts(contents.dataset.items().collect())
    vision = {"path": str(args.checkpoint), "hidden_state": 24, "image_size": 160}
    frozen = build_encoder(DualTowerConfig.model_validate({"vision": vision, "matryoshka": []}))
    each: dict[tuple[str, int | None], np.ndarray] = {}
    gallery = 0
    for name, encoder in [(FROZEN, frozen), *((r.name, load_encoder(r / "encoder")) for r in runs)]:
        shown = Shown(contents, encoder.eval(), Views(), 0, args.cache)  # pyright: ignore[reportCallIssue]
        task = SearchTask.of(SEARCH, shown, parts, CoOccurrence(), args.split, 0)  # pyright: ignore[reportCallIssue]
        gallery = len(task.gallery)
        for dim, found in _by_prefix(task, shown, encoder).items():
            each[name, None if name == FROZEN else dim] = found
    each |= _means_over_seeds(each)
    found = {}
    for (name, dim), mine in each.items():
        label = name if dim is None else f"{name}[:{dim}]"
        found[label] = report(mine, gallery, figures=names())
        for other, key in ((FROZEN, (FROZEN, None)), ("start", (args.start.name, dim))):
            if key in each and key[0] != name:
                found[label] |= _gains(mine, each[key], other)
        print(_line(label, found[label]), flush=True)
    write_json(args.out, {"split": args.split, "torch": torch.__version__, "searches": found})


def _by_prefix(task: SearchTask, shown: Shown, encoder: Encoder) -> dict[int, np.ndarray]:
    """Each query's contribution to each figure (Q, F), by width of the prefix."""
    queries, gallery = task.vectors(shown)
    product = shown.contents.product
    return {dim: values(task.ranking(queries, gallery, product, dim)) for dim in (*encoder.matryoshka, encoder.dim)}


def _means_over_seeds(each: dict[tuple[str, int | None], np.ndarray]) -> dict[tuple[str, int | None], np.ndarray]:
    """Runs NAME-s0, NAME-s1, ... become one NAME, each query with its mean over them."""
    seeds = defaultdict(list)
    for (name, dim), found in each.items():
        recipe, dash, seed = name.rpartition("-s")
        if dash and seed.isdigit():
            seeds[f"{recipe}, mean of seeds", dim].append(found)
    return {key: np.mean(found, axis=0) for key, found in seeds.items() if len(found) > 1}


def _gains(mine: np.ndarray, other: np.ndarray, name: str) -> dict[str, Any]:
    """The figures minus another encoder's on the same queries, with the bootstrap's 95 % intervals."""
    at = [names().index(figure) for figure in COMPARED]
    gain = mine[:, at] - other[:, at]
    low, high = interval(gain)
    return {
        f"{figure} minus {name}": {"value": float(gain[:, i].mean()), "low": float(low[i]), "high": float(high[i])}
        for i, figure in enumerate(COMPARED)
    }


def _line(label: str, figures: dict[str, Any]) -> str:
    shown = [*COMPARED, "hr@1 minus frozen", "hr@1 minus start", "mrr minus start"]
    return f"{label:<28} gallery {figures['gallery']:,}  queries {figures['queries']:,}  " + "  ".join(
        f"{key} {figures[key]['value']:.4f} [{figures[key]['low']:.4f}, {figures[key]['high']:.4f}]"
        for key in shown
        if key in figures
    )


if __name__ == "__main__":
    main()
