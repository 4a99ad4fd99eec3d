"""The command `moon train`."""

import argparse
import os
import sys
from pathlib import Path

from data.config import load_config
from data.dataset import Dataset
from data.fields import ShowFields
from data.host import keep_freed_memory
from data.local_ranks import SIGTERM_STATUS, spread
from features.vector_source import named_stores
from ranker.config import Recipe


def main(argv: list[str]) -> int:
    """Train a recipe. Returns 143 if SIGTERM stopped it (the state is saved)."""
    parser = argparse.ArgumentParser("moon train", description="Train a recipe on a prepared dataset.")
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("--fields", action=ShowFields, model=Recipe, help="show every field of a recipe")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--out", type=Path, required=True, help="run directory")
    parser.add_argument(
        "--store", action="append", default=[], metavar="[NAME=]DIR", help="representation store of item vectors"
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--seed", type=int, help="seed of this repetition (default: the recipe's)")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (one a GPU)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    parser.add_argument("--json", type=Path, help="write the test figures here as well")
    args = parser.parse_args(argv)
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    recipe = load_config(args.config, Recipe, [*args.set, *seed])
    dataset = Dataset(args.data)
    stores = named_stores(recipe.features, args.store)
    if args.nproc > 1 and "RANK" not in os.environ:
        return spread("train", args.nproc, argv, debug="--debug" in sys.argv)
    keep_freed_memory()
    from data.files import naming_a_full_disk, write_json
    from features.ranks import process_group
    from ranker.evaluate import table
    from ranker.train import Interrupted, train

    with process_group() as ranks:
        try:
            with naming_a_full_disk(args.out):
                found = train(recipe, dataset, args.out, ranks, args.resume, stores)
        except Interrupted as stop:
            if ranks.first:
                print(f"moon train: {stop}", file=sys.stderr)
            return SIGTERM_STATUS
    if ranks.first:
        print(table(found))
        if args.json:
            write_json(args.json, found)
    return 0
