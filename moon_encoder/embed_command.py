"""The command `moon encoder embed`."""

import argparse
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.files import write_json
from features import coverage
from features.store import Version
from moon_encoder.checkpoint import encoder_info
from moon_encoder.embed_job import plan, run
from moon_encoder.embedding import BATCH
from moon_encoder.items import ITEM_FORMS
from moon_encoder.trained_on import catalogue_columns


def main(argv: list[str]) -> int:
    """Embed the items of a dataset into a new version of a store."""
    parser = argparse.ArgumentParser("moon encoder embed", description="The vectors of all items, into a store.")
    parser.add_argument("encoder", type=Path, help="encoder folder")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--store", type=Path, required=True, help="representation store; a new version is published")
    parser.add_argument("--of", choices=("items", "queries"), default="items", help="what is embedded (default: items)")
    parser.add_argument("--content", choices=ITEM_FORMS, help="what is shown of an item (default: title+image)")
    parser.add_argument("--dtype", choices=("float16", "int8"), default="float16", help="numbers of the stored vectors")
    parser.add_argument("--dim", type=int, help="store a Matryoshka prefix of this width (default: the whole vector)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"items in one run of the encoder (default: {BATCH})")
    parser.add_argument("--nproc", type=int, default=1, help="processes (one a GPU)")
    parser.add_argument("--cache", type=Path, help="folder for what the frozen part makes of pictures; runs share it")
    parser.add_argument("--resume", action="store_true", help="go on with an embedding that was cut off")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    dataset = Dataset(args.data)
    columns = catalogue_columns(encoder_info(args.encoder))
    job = plan(args.encoder, dataset, args.content, columns, args.dim, args.dtype, args.batch, args.of)
    version, figures = run(job, args.store, args.nproc, args.resume, args.cache)
    found = {"store": str(args.store), "version": version.number, "content": job.content, "dim": job.dim}
    found |= {"dtype": job.dtype, "encoder": version.meta["encoder"], "fingerprint": version.meta["fingerprint"]}
    found |= {"of": job.of, "vectors": int(version.present.sum()), "rows": len(version.present)}
    found |= {"coverage": coverage.coverage(dataset, version.present) if job.of == "items" else None, **figures}
    print(text(found, version))
    if args.json:
        write_json(args.json, found)
    return 0


def text(found: dict[str, Any], version: Version) -> str:
    """The figures, readable."""
    shown = found["content"] if found["of"] == "items" else "queries"
    lines = [f"{version.folder}: {shown} by {found['encoder']}, {found['dim']} x {found['dtype']}"]
    if found["coverage"] is None:
        lines.append(f"coverage: {found['vectors']:,} of {found['rows']:,} queries")
    else:
        lines += coverage.text(found["coverage"])
    if found["items_per_second"]:
        lines.append(
            f"{found['embedded_now']:,} {found['of']} in {found['seconds']:.1f} s, "
            f"{found['items_per_second']:.1f} {found['of']}/s with {found['processes']} process(es)"
        )
    for problem in found["problems"][:10]:
        lines.append(f"  {problem['items']:,} x {problem['field']} {problem['reason']}: {problem['outcome']}")
    if found["problems"]:
        left = len(found["problems"]) - 10
        more = f" (and {left:,} other reasons)" if left > 0 else ""
        lines.append(f"  by item: {version.folder / 'problems.parquet'}{more}")
    return "\n".join(lines)
