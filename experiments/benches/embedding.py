"""`moon bench embed`: items/s of an encoder, and its share of the measured peak of matrix products."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from data.host import keep_freed_memory
from experiments.benches import figures
from moon_encoder.checkpoint import load_encoder
from moon_encoder.content import Content


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench embed", description="Speed of an encoder.")
    parser.add_argument("encoder", type=Path, help="encoder folder")
    parser.add_argument("--batch", type=int, default=64, help="items in one run")
    parser.add_argument("--pixels", type=int, default=256, help="edge of the images")
    figures.options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    encoder = load_encoder(args.encoder, figures.device()).eval()
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (args.batch, args.pixels, args.pixels, 3), dtype=np.uint8)
    words = ["red", "cotton", "dress", "with", "long", "sleeves", "for", "summer", "evenings", "in", "town"]
    contents = [Content(" ".join(rng.choice(words, 8)), Image.fromarray(p)) for p in pictures]
    inputs = encoder.prepare(contents).to(encoder.device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            encoder(inputs)
        forward = figures.seconds(lambda: encoder(inputs))
    prepare = figures.seconds(lambda: encoder.prepare(contents))
    a = torch.randn(2048, 2048, device=encoder.device)
    peak = 2 * 2048**3 / figures.seconds(lambda: a @ a)
    found = {
        "batch": args.batch,
        "network_items_per_second": args.batch / forward,
        "preparing_items_per_second": args.batch / prepare,
        "flops_an_item": counter.get_total_flops() / args.batch,
        "matrix_product_flops_per_second": peak,
        "network_share_of_matrix_product_peak": counter.get_total_flops() / forward / peak,
    }
    return figures.report("embed", found, args)
