"""The command `moon encoder recall`."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory, peak_rss_bytes
from data.source import read_csv_chunks, read_parquet
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.gallery import page
from moon_encoder.held_out import TEST, VALID
from moon_encoder.items import ITEM_FORMS
from moon_encoder.recall_judge import judge
from moon_encoder.recall_subjects import Subject
from moon_encoder.recall_tasks import TASKS, Asked
from moon_encoder.trained_on import catalogue_columns, held_out_rule

QUERIES = 20_000


def main(argv: list[str]) -> int:
    """Search recall of an encoder or a store, with intervals, and of a baseline on the same queries."""
    parser = argparse.ArgumentParser("moon encoder recall", description="Search recall of an encoder or a store.")
    parser.add_argument("subject", type=Path, help="encoder folder, or representation store")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--baseline", type=Path, help="encoder or store to compare with, on the same queries and items")
    parser.add_argument("--task", action="append", choices=TASKS, help="repeat for several (default: all there are)")
    parser.add_argument("--content", choices=ITEM_FORMS, help="how items are shown in searches (default: title+image)")
    parser.add_argument("--dim", type=int, help="judge the Matryoshka prefix of this width")
    parser.add_argument(
        "--part",
        choices=("test", "valid", "all"),
        help="held-out items, and split of the log, whose queries count (default: test if SUBJECT holds items out)",
    )
    parser.add_argument("--items", type=Path, help="parquet or CSV with item_id: only queries of these items count")
    parser.add_argument("--pairs", type=Path, help="parquet or CSV of item_id and query_text or query_image")
    parser.add_argument("--query-images", type=Path, help="folder or tar of the pictures in --pairs")
    parser.add_argument("--same", help="item-item: a catalogue column whose equal values are right")
    parser.add_argument("--product", help="catalogue column of the product: all its items are right in a search")
    parser.add_argument("--queries", type=int, default=QUERIES, help=f"most queries a task, drawn (default: {QUERIES})")
    parser.add_argument("--html", type=Path, help="write a page of queries with their neighbours here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    keep_freed_memory()
    dataset = Dataset(args.data)
    contents = Contents.of(dataset, Catalogue(product=args.product))  # pyright: ignore[reportCallIssue]
    subject = Subject(args.subject, contents, args.content, args.dim)
    if subject.info is not None:
        columns = catalogue_columns(subject.info)
        contents = Contents.of(dataset, columns.model_copy(update={"product": args.product or columns.product}))
        subject.contents = contents
    baseline = None
    if args.baseline:
        baseline = Subject(args.baseline, contents, args.content or subject.content, args.dim)
    allowed, part = _part(args.part, subject, dataset)
    if args.items:
        allowed &= _listed(args.items, dataset)
    split = "valid" if part == "valid" else "test"
    asked = Asked(contents, allowed, split, args.queries, args.pairs, args.query_images, args.same)
    found: dict[str, Any] = {"subject": subject.name, "baseline": baseline and baseline.name, "part": part}
    found |= {"dim": subject.dim, "content": subject.content, "dataset": dataset.fingerprint, "data": str(args.data)}
    tasks = args.task or list(TASKS)
    found["tasks"], found["left_out"], shown = judge(tasks, asked, subject, baseline, examples=bool(args.html))
    if args.task and found["left_out"]:
        name, reason = next(iter(found["left_out"].items()))
        raise InputError(f"--task {name}: {reason}")
    if not found["tasks"]:
        raise InputError(
            f"{args.data}: no task is left; " + "; ".join(f"{n}: {r}" for n, r in found["left_out"].items())
        )
    found["peak_rss_bytes"] = peak_rss_bytes()
    print(text(found))
    if args.json:
        write_json(args.json, found)
    if args.html:
        write_text(args.html, page(found, shown))
        print(f"gallery: {args.html}")
    return 0


def _part(part: str | None, subject: Subject, dataset: Dataset) -> tuple[np.ndarray, str]:
    """(items,) bool of the items whose queries count, and the name of the part."""
    rule = held_out_rule(subject.info) if subject.info else None
    if part is None:
        part = "test" if rule is not None and rule.test else "all"
    items = dataset.items().collect()
    if part == "all" or rule is None:
        return np.ones(len(items), bool), part
    mine = rule.parts(items) == (TEST if part == "test" else VALID)
    if not mine.any():
        raise InputError(f"--part {part}: the encoder was trained without holding out items for it; give --part all")
    return mine, part


def _listed(file: Path, dataset: Dataset) -> np.ndarray:
    """(items,) bool: items named in a file."""
    if file.suffix == ".parquet":
        ids = read_parquet(file, ["item_id"])["item_id"]
    else:
        ids = pl.concat([frame for _, frame in read_csv_chunks(file, ["item_id"])])["item_id"]
    own = dataset.items().select("item_id").collect()["item_id"]
    return own.is_in(ids.cast(own.dtype).implode()).to_numpy().copy()


def text(found: dict[str, Any]) -> str:
    """The figures as a table with intervals."""
    lines = [f"{found['subject']}, {found['dim']} dims, items shown as {found['content']}; queries of: {found['part']}"]
    for name, task in found["tasks"].items():
        lines.append(f"{name}: {task['queries']:,} queries, gallery {task['gallery']:,} items")
        shown = [n for n in task["figures"] if not n.startswith("precision") or n == "precision@10"]
        for figure in shown:
            line = f"  {figure:<16}{_figure(task[figure])}"
            if "difference" in task:
                before = task["baseline"][figure]["value"]
                line += f"   baseline {before:.4f}   difference {_figure(task['difference'][figure], '+')}"
            lines.append(line)
        lines += [f"  {note}" for note in task["notes"]]
        head = shown[0]
        for category, part in list(task.get("categories", {}).items())[:8]:
            lines.append(f"    {category:<24} {head} {_figure(part[head])}  {part['queries']:>7,} queries")
    lines += [f"left out {name}: {reason}" for name, reason in found["left_out"].items()]
    return "\n".join(lines)


def _figure(figure: dict[str, float], sign: str = "") -> str:
    return f"{figure['value']:{sign}.4f} [{figure['low']:{sign}.4f}, {figure['high']:{sign}.4f}]"
