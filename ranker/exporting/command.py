"""The command `moon export`: a trained run -> a package that serves it, if it gives the same scores."""

import argparse
import time
from pathlib import Path

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.host import keep_freed_memory
from ranker.run_folder import RunFolder

PROGRAMS = ("aoti", "program", "onnx")


def main(argv: list[str]) -> int:
    """The command."""
    from ranker.versions import check_versions

    parser = argparse.ArgumentParser("moon export", description="Export a trained run, ready to serve.")
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; each export is a new version in it"
    )
    parser.add_argument(
        "--format", choices=("folder", "triton"), default="folder", help="triton: --out is a Triton model repository"
    )
    parser.add_argument("--data", type=Path, help="prepared dataset (default: the one it was trained on)")
    parser.add_argument(
        "--store", action="append", default=[], metavar="[NAME=]DIR", help="representation store (default: the run's)"
    )
    parser.add_argument("--quantize", choices=("float16", "int8"), help="tables in 2 bytes or (by row) 1 byte a number")
    parser.add_argument("--dense", choices=("float32", "bfloat16"), default="float32", help="type of the computed part")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"which to write, of {','.join(PROGRAMS)}")
    parser.add_argument("--rows", type=int, default=20_000, help="recorded valid rows to compare")
    parser.add_argument("--json", type=Path, help="write the card's facts here as well")
    args = parser.parse_args(argv)
    programs = tuple(args.programs.split(","))
    if not programs or not set(programs) <= set(PROGRAMS):
        raise InputError(f"--programs {args.programs}: must be some of {','.join(PROGRAMS)}")
    check_versions()
    keep_freed_memory()
    run = RunFolder(args.run)
    dataset = Dataset(args.data or run.meta()["dataset"]["path"])
    started = time.monotonic()
    from features.ranks import process_group
    from features.vector_source import named_folders
    from ranker.exporting.export import Choice, export

    choice = Choice(args.quantize or "float32", args.dense, programs, args.rows)
    stores = named_folders("--store", [v.name for v in run.recipe().features.vectors], args.store)
    with process_group() as ranks:
        if args.format == "folder":
            card, folder = export(run, dataset, args.out, ranks, choice, stores)
        else:
            from ranker.exporting import triton

            with triton.beside(args.out) as scratch:
                card, version = export(run, dataset, scratch, ranks, choice, stores)
                folder = triton.publish(version, args.out)
    print("\n".join(card["parity_lines"]))
    print(f"{folder}: {card['name']}, content {card['hash'][:16]}, {time.monotonic() - started:.0f} s")
    if args.json:
        write_json(args.json, card)
    return 0
