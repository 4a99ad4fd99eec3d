"""The command `moon train`."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.config import load_config
from data.dataset import Dataset
from data.fields import ShowFields
from data.host import keep_freed_memory
from data.local_ranks import SIGTERM_STATUS, restarted, spread
from features.vector_source import named_folders
from ranker.config import Recipe
from ranker.run_folder import RunFolder

if TYPE_CHECKING:
    from ranker.end_to_end import EncoderRoom


def main(argv: list[str], room: "EncoderRoom") -> int:
    """Train a recipe. Returns 143 if SIGTERM stopped it (the state is saved).

    `room`: opens and saves the encoders of `--encoder`; the trained ones go to OUT/encoders/NAME.
    """
    parser = argparse.ArgumentParser("moon train", description="Train a recipe on a prepared dataset.")
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("--fields", action=ShowFields, model=Recipe, help="show every field of a recipe")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--out", type=Path, required=True, help="run directory")
    parser.add_argument(
        "--store", action="append", default=[], metavar="[NAME=]DIR", help="representation store of item vectors"
    )
    parser.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="encoder of item vectors in end_to_end mode",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder for what an encoder's frozen part makes of items; runs and embeddings share it",
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--seed", type=int, help="seed of this repetition (default: the recipe's)")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (one a GPU)")
    parser.add_argument(
        "--max-restarts", type=int, default=0, help="start all processes again this often when one of them dies"
    )
    parser.add_argument("--init", type=Path, metavar="RUN", help="go on from the model of a run on earlier data")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    parser.add_argument("--json", type=Path, help="write the test figures here as well")
    args = parser.parse_args(argv)
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    recipe = load_config(args.config, Recipe, [*args.set, *seed])
    dataset = Dataset(args.data)
    stores = named_folders("--store", [v.name for v in recipe.features.vectors], args.store)
    folders = named_folders(
        "--encoder", [v.name for v in recipe.features.vectors if v.mode == "end_to_end"], args.encoder
    )
    if (args.nproc > 1 or args.max_restarts) and "RANK" not in os.environ:
        return spread("train", args.nproc, argv, debug="--debug" in sys.argv, max_restarts=args.max_restarts)
    keep_freed_memory()
    from data.files import naming_a_full_disk, write_json
    from features.ranks import process_group
    from ranker.evaluate import table
    from ranker.opened_encoders import OpenedEncoders
    from ranker.train import Interrupted, train

    encoders = OpenedEncoders(room, folders, dataset, args.cache)
    previous = RunFolder(args.init) if args.init else None
    with process_group() as ranks:
        try:
            with naming_a_full_disk(args.out):
                resume = args.resume or restarted()
                found = train(recipe, dataset, args.out, ranks, resume, stores, encoders.openers, previous)
                if ranks.first:
                    encoders.save(RunFolder(args.out))
        except Interrupted as stop:
            if ranks.first:
                print(f"moon train: {stop}", file=sys.stderr)
            return SIGTERM_STATUS
    if ranks.first:
        print(table(found))
        if args.json:
            write_json(args.json, found)
    return 0
