"""The command `moon encoder pretrain`."""

import argparse
import os
import sys
from pathlib import Path

from data.config import load_config
from data.dataset import Dataset
from data.fields import ShowFields
from data.files import write_json
from data.host import keep_freed_memory
from data.local_ranks import SIGTERM_STATUS, spread


def main(argv: list[str]) -> int:
    """Pretrain a multimodal LLM. Returns 143 if SIGTERM stopped it (the state is saved)."""
    from moon_encoder.pretrain_config import Pretrain

    parser = argparse.ArgumentParser("moon encoder pretrain", description="Stage 1: generation tasks over a catalogue.")
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--out", type=Path, required=True, help="run directory; the trained encoder is OUT/encoder")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--seed", type=int, help="seed of this repetition (default: the recipe's)")
    parser.add_argument("--cache", type=Path, help="folder for what a frozen vision tower makes of pictures")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (one a GPU)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--fields", action=ShowFields, model=Pretrain, help="show every field of a recipe")
    args = parser.parse_args(argv)
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    config = load_config(args.config, Pretrain, [*args.set, *seed])
    dataset = Dataset(args.data)
    if args.nproc > 1 and "RANK" not in os.environ:
        return spread("encoder pretrain", args.nproc, argv, debug="--debug" in sys.argv)
    keep_freed_memory()
    from features.ranks import process_group
    from moon_encoder.pretrain import pretrain, table
    from moon_encoder.run import Interrupted

    with process_group() as ranks:
        try:
            found = pretrain(config, dataset, args.out, ranks, args.resume, args.cache)
        except Interrupted as stop:
            if ranks.first:
                print(f"moon encoder pretrain: {stop}", file=sys.stderr)
            return SIGTERM_STATUS
    if ranks.first:
        print(table(found))
        if args.json:
            write_json(args.json, found)
    return 0
