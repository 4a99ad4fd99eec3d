"""`moon inspect PATH`: what is in a dataset or a run, and whether it is healthy."""

import argparse
from pathlib import Path

from data import inspect as dataset_report
from data.errors import InputError
from data.files import write_json
from ranker import inspect as run_report

# What a folder is, by a file that only it has.
KINDS = {"dataset.json": dataset_report, "config.yaml": run_report}


def main(argv: list[str]) -> int:
    """The command.

    Raises InputError if PATH is none of ours.
    """
    parser = argparse.ArgumentParser("moon inspect", description="What is in a dataset or a run; its health.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    report = next((module for name, module in KINDS.items() if (args.path / name).is_file()), None)
    if report is None:
        raise InputError(f"{args.path}: neither a prepared dataset (dataset.json) nor a run (config.yaml)")
    found = report.inspect(args.path)
    print(report.text(found))
    if args.json:
        write_json(args.json, found)
    return 0
