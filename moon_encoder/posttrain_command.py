"""The command `moon encoder posttrain`."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from data.config import load_config
from data.dataset import Dataset
from data.files import write_json
from data.host import keep_freed_memory
from data.local_ranks import SIGTERM_STATUS, spread


def main(argv: list[str]) -> int:
    """Post-train an encoder. Returns 143 if SIGTERM stopped it (the state is saved)."""
    parser = argparse.ArgumentParser("moon encoder posttrain", description="Stages A and B: contrastive, on pairs.")
    parser.add_argument("config", type=Path, help="what to do (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--init", type=Path, required=True, help="encoder to start from: its folder, or a YAML of one")
    parser.add_argument("--out", type=Path, required=True, help="run directory; the trained encoder is OUT/encoder")
    parser.add_argument("--cache", type=Path, help="folder for what the frozen part makes of pictures; runs share it")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the config")
    parser.add_argument("--seed", type=int, help="seed of this repetition (default: the config's)")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (one a GPU)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    from moon_encoder.posttrain_config import Posttrain

    seed = [] if args.seed is None else [f"seed={args.seed}"]
    config = load_config(args.config, Posttrain, [*args.set, *seed])
    dataset = Dataset(args.data)
    if args.nproc > 1 and "RANK" not in os.environ:
        return spread("encoder posttrain", args.nproc, argv, debug="--debug" in sys.argv)
    keep_freed_memory()
    from features.ranks import process_group
    from moon_encoder.forms import Contents
    from moon_encoder.held_out import TRAIN
    from moon_encoder.initial import start_from
    from moon_encoder.posttrain import posttrain
    from moon_encoder.run import Interrupted

    def texts() -> list[str]:
        parts = config.held_out.parts(dataset.items().collect())
        return Contents.of(dataset, config.catalogue).texts_of(np.flatnonzero(parts == TRAIN))

    encoder, start = start_from(args.init, config.seed, texts)
    with process_group() as ranks:
        try:
            found = posttrain(config, dataset, encoder, start, args.out, ranks, args.resume, args.cache)
        except Interrupted as stop:
            if ranks.first:
                print(f"moon encoder posttrain: {stop}", file=sys.stderr)
            return SIGTERM_STATUS
    if ranks.first:
        for name, figures in found["valid"].items():
            shown = ", ".join(f"{key} {figures[key]:.4f}" for key in ("hr@1", "hr@10", "mrr"))
            print(f"valid {name}: {shown} ({figures['queries']:,} queries, gallery {figures['gallery']:,})")
        print(f"best at step {found['best_step']:,} of {found['steps']:,}, {found['pairs_per_second']:,.0f} pairs/s")
        if args.json:
            write_json(args.json, found)
    return 0
