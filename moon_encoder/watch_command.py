"""The command `moon encoder watch`."""

import argparse
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_json
from data.host import keep_freed_memory
from moon_encoder.checkpoint import encoder_info, load_encoder
from moon_encoder.embed_job import encoder_name
from moon_encoder.embed_parts import device
from moon_encoder.embedding import BATCH
from moon_encoder.watch import Watcher, sole_watcher

POLL_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Embed what is dropped into an inbox until SIGTERM or Ctrl-C, which end it between two batches."""
    parser = argparse.ArgumentParser("moon encoder watch", description="New items into a store, within seconds.")
    parser.add_argument("encoder", type=Path, help="encoder folder; the one that the store was embedded with")
    parser.add_argument("--store", type=Path, required=True, help="representation store (moon encoder embed)")
    parser.add_argument("--inbox", type=Path, required=True, help="folder of new items (JSONL, parquet)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"about so many items a version (default: {BATCH})")
    parser.add_argument("--once", action="store_true", help="end when the inbox is empty")
    parser.add_argument("--json", type=Path, help="write the figures here at the end")
    args = parser.parse_args(argv)
    keep_freed_memory()
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with sole_watcher(args.inbox):
            name = encoder_name(encoder_info(args.encoder))
            watcher = Watcher(load_encoder(args.encoder, device()), name, args.store, args.inbox, args.batch)
            print(f"watching {args.inbox}; store version {watcher.store.current.number}", flush=True)
            while not asked:
                busy = watcher.step(lambda line: print(line, flush=True))
                if not busy and args.once:
                    break
                if not busy:
                    time.sleep(POLL_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    totals = watcher.totals
    found: dict[str, Any] = {"embedded": totals.embedded, "known": totals.known, "failed": totals.failed}
    waited = np.array(totals.latency)
    found["latency_seconds"] = {
        f"p{q}": float(np.percentile(waited, q)) if len(waited) else None for q in (50, 95, 100)
    }
    print(f"{totals.embedded:,} embedded, {totals.known:,} had a vector already, {totals.failed:,} without a vector")
    if args.json:
        write_json(args.json, found)
    return 0
