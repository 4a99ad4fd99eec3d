"""Poster search on the held-out films: encoders against the frozen checkpoint, on the same test queries.

    python -m experiments.poster_search --data DIR --checkpoint DIR --encoder RUN/encoder... --out FILE

The frozen checkpoint is read as its page says: hidden state 24 at 160 pixels, mean over positions.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from data.dataset import Dataset
from data.files import write_json
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder
from moon_encoder.config import DualTowerConfig
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.held_out import HeldOut
from moon_encoder.pairs import CoOccurrence
from moon_encoder.posttrain_config import Search
from moon_encoder.recall import hit_rate_difference, names, report, values
from moon_encoder.shown import Shown, Views
from moon_encoder.valid_search import SearchTask

SEARCH = Search(query="image", item="image", source="given", queries=1_000_000)  # pyright: ignore[reportCallIssue]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("experiments.poster_search", description="Poster search of encoders, compared.")
    parser.add_argument("--data", type=Path, required=True, help="prepared movielens_posters")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the MobileNet checkpoint")
    parser.add_argument("--encoder", type=Path, action="append", default=[], help="an encoder's folder; repeat it")
    parser.add_argument("--cache", type=Path, help="folder for what the frozen parts make of pictures")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--out", type=Path, required=True, help="JSON of the figures")
    args = parser.parse_args()
    dataset = Dataset(args.data)
    rules = [HeldOut.model_validate(encoder_info(e).facts["config"]["held_out"]) for e in args.encoder]
    assert all(rule == rules[0] for rule in rules), "the encoders hold out different films"
    contents = Contents.of(dataset, Catalogue())  # pyright: ignore[reportCallIssue]
    parts = rules[0].parts(dataset.items().collect())
    vision = {"path": str(args.checkpoint), "hidden_state": 24, "image_size": 160}
    frozen = build_encoder(DualTowerConfig.model_validate({"vision": vision, "matryoshka": []}))
    found, firsts = {}, {}
    for name, encoder in [("frozen", frozen), *((str(e.parent.name), load_encoder(e)) for e in args.encoder)]:
        shown = Shown(contents, encoder.eval(), Views(), 0, args.cache)  # pyright: ignore[reportCallIssue]
        task = SearchTask.of(SEARCH, shown, parts, CoOccurrence(), args.split, 0)  # pyright: ignore[reportCallIssue]
        queries, gallery = task.vectors(shown)
        for dim in [*encoder.matryoshka, encoder.dim]:
            ranking = task.ranking(queries, gallery, contents.product, dim)
            label = name if dim == encoder.dim else f"{name}[:{dim}]"
            figures = report(values(ranking), len(task.gallery), figures=names())
            firsts[label] = np.where(ranking.first > 0, ranking.first, len(task.gallery))
            for k in (1, 10):
                gain, low, high = hit_rate_difference(firsts[label], firsts["frozen"], k)
                figures[f"hr@{k} minus frozen"] = {"value": gain, "low": low, "high": high}
            found[label] = figures
            print(f"{label:<28} gallery {figures['gallery']:,}  queries {figures['queries']:,}  " + "  ".join(
                f"{key} {figures[key]['value']:.4f} [{figures[key]['low']:.4f}, {figures[key]['high']:.4f}]"
                for key in ("hr@1", "hr@10", "mrr", "hr@1 minus frozen", "hr@10 minus frozen")
            ))  # fmt: skip
    write_json(args.out, {"split": args.split, "torch": torch.__version__, "searches": found})


if __name__ == "__main__":
    main()
