"""`moon inspect PATH`: what is in a dataset, a representation store or a run, and whether it is healthy."""

import argparse
from pathlib import Path

from data import inspect as dataset_report
from data.errors import InputError
from data.files import write_json
from features import inspect as store_report
from ranker import inspect as run_report

# What a folder is, by a file that only it has.
KINDS = {"dataset.json": dataset_report, "v*/meta.json": store_report, "config.yaml": run_report}


def main(argv: list[str]) -> int:
    """The command.

    Raises InputError if PATH is none of ours.
    """
    parser = argparse.ArgumentParser("moon inspect", description="What is in a dataset, a store or a run; its health.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--data", type=Path, help="of a store: the dataset, for titles and coverage by category")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    report = next((module for name, module in KINDS.items() if any(args.path.glob(name))), None)
    if report is None:
        raise InputError(
            f"{args.path}: neither a prepared dataset (dataset.json), nor a store (v00000001/meta.json), "
            "nor a run (config.yaml)"
        )
    if args.data and report is not store_report:
        raise InputError("--data goes with a store")
    found = report.inspect(args.path, **({"data": args.data} if args.data else {}))
    print(report.text(found))
    if args.json:
        write_json(args.json, found)
    return 0
