"""`moon inspect PATH`: what is in a dataset, a store, an encoder, a run or an export, and whether it is healthy."""

import argparse
from importlib import import_module
from pathlib import Path

from data.errors import InputError
from data.files import write_json

STORE, ENCODER, RUN = "features.inspect", "moon_encoder.inspect", "ranker.inspect"
# What a folder is, by a file that only it has, and the module that reports on it.
KINDS = {
    "dataset.json": "data.inspect",
    "v*/meta.json": STORE,
    "encoder.json": ENCODER,
    "config.yaml": RUN,
    "package.json": "ranker.exporting.inspect",
    "current/package.json": "ranker.exporting.inspect",
}


def main(argv: list[str]) -> int:
    """The command.

    Raises InputError if PATH is none of ours.
    """
    parser = argparse.ArgumentParser("moon inspect", description="What is in a dataset, a store, an encoder or a run.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--data", type=Path, help="of a store: the dataset, for titles and coverage by category")
    parser.add_argument(
        "--projector", type=Path, help="of a store: write it for TensorBoard's projector (needs --data)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    kind = next((module for name, module in KINDS.items() if any(args.path.glob(name))), None)
    if kind is None:
        raise InputError(
            f"{args.path}: neither a prepared dataset (dataset.json), nor a store (v00000001/meta.json), nor an "
            "encoder (encoder.json), nor a run (config.yaml), nor an exported model (current/package.json)"
        )
    if kind == RUN and import_module(ENCODER).is_run(args.path):
        kind = ENCODER
    if args.data and kind != STORE:
        raise InputError("--data goes with a store")
    if args.projector and not args.data:
        raise InputError("--projector goes with a store and its --data")
    report = import_module(kind)
    found = report.inspect(args.path, **({"data": args.data} if args.data else {}))
    print(report.text(found))
    if args.projector:
        count = import_module("experiments.projector").write_projector(args.path, args.data, args.projector)
        print(f"{count:,} items for the embedding projector: tensorboard --logdir {args.projector}")
    if args.json:
        write_json(args.json, found)
    return 0
