"""`moon bench export`: seconds to export a trained run, and rows/s of every program of the package."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from data.dataset import Dataset
from data.host import keep_freed_memory
from experiments.benches import figures
from features.ranks import process_group
from ranker.exporting.command import PROGRAMS
from ranker.exporting.export import Choice, export
from ranker.run_folder import RunFolder


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench export", description="Speed of the export, size of the package.")
    parser.add_argument("run", type=Path, help="trained run")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"which to write, of {','.join(PROGRAMS)}")
    parser.add_argument("--rows", type=int, default=20_000, help="valid rows to compare")
    figures.options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    run, programs = RunFolder(args.run), tuple(args.programs.split(","))
    found: dict[str, Any] = {}
    with process_group() as ranks, tempfile.TemporaryDirectory() as scratch:
        for program in programs:
            started = time.perf_counter()
            choice = Choice("float32", "float32", (program,), args.rows)
            _, folder = export(run, Dataset(run.meta()["dataset"]["path"]), Path(scratch) / program, ranks, choice)
            found[f"{program}_seconds"] = time.perf_counter() - started
            found[f"{program}_package_bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return figures.report("export", found, args)
