"""`moon bench similarity`: content interest in one pass, its bytes against the floor, its share of copy bandwidth.

The floor of a pass is what must be read and written once: a vector a behaviour, its id, cosine and weight, and of each
sample the target and the interest. The copy bandwidth is that of a large copy on the same device (read plus write).
"""

import argparse

import torch
from torch import Tensor

from data.host import keep_freed_memory
from experiments.benches import figures
from features.batch import SequenceBatch
from ranker.jagged import gathered_sum, masked_segment_softmax
from ranker.kernels.content_interest import Jagged, VectorTable, content_interest
from ranker.similarity import pair_dots

DTYPES = ("float32", "float16", "int8")


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench similarity", description="Speed of the similarity kernel.")
    parser.add_argument("--batch", type=int, default=4096, help="samples")
    parser.add_argument("--behaviours", type=int, default=50, help="of each sample")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    parser.add_argument("--distinct", type=int, default=8000, help="rows that the behaviours are of")
    figures.options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    device, g = figures.device(), torch.Generator().manual_seed(0)
    lengths = torch.full((args.batch,), args.behaviours)
    row = torch.repeat_interleave(torch.arange(args.batch), lengths)
    ids = torch.randint(min(args.distinct, args.rows), (len(row),), generator=g) * (args.rows // args.distinct or 1)
    behaviours = Jagged(*(t.to(device) for t in (ids % args.rows, lengths, row)))
    copied = torch.empty(64 << 20, device=device)
    bandwidth = 2 * copied.nbytes / figures.seconds(lambda: copied.clone())
    found = {name: getattr(args, name) for name in ("batch", "behaviours", "dim", "rows", "distinct")}
    found["copy_bytes_per_second"] = bandwidth
    for dtype in DTYPES:
        found |= _one_pass(dtype, args, behaviours, device, bandwidth)
    if device.type == "cpu":
        found |= _products(args, behaviours)
    return figures.report("similarity", found, args)


def _one_pass(
    dtype: str, args: argparse.Namespace, b: Jagged, device: torch.device, bandwidth: float
) -> dict[str, float]:
    codes = torch.randn(args.rows, args.dim)
    scale = None
    if dtype == "int8":
        scale = (codes.abs().amax(1) / 127).to(device)
        codes = (codes / codes.abs().amax(1, keepdim=True) * 127).round()
    table = VectorTable(
        codes.to(getattr(torch, dtype)).to(device), torch.ones(args.rows, dtype=torch.bool).to(device), scale
    )
    query, shown = torch.randn(args.batch, args.dim, device=device, requires_grad=True), torch.ones(args.batch) > 0
    t, shown = torch.full((), -2.3, device=device, requires_grad=True), shown.to(device)
    forward = figures.seconds(lambda: content_interest(table, b, query, shown, t))

    def both() -> None:
        found = content_interest(table, b, query, shown, t)
        (found.interest.sum() + found.weights.sum() + found.cosines.sum()).backward()

    total = figures.seconds(both)
    floor = len(b.ids) * (args.dim * table.codes.element_size() + 16) + 2 * args.batch * args.dim * 4
    return {
        f"{dtype}_forward_ms": forward * 1e3,
        f"{dtype}_forward_backward_ms": total * 1e3,
        f"{dtype}_floor_bytes": floor,
        f"{dtype}_forward_share_of_copy_bandwidth": floor / forward / bandwidth,
    }


def _products(args: argparse.Namespace, b: Jagged) -> dict[str, float]:
    """What CUBE does on a CPU: products over the distinct items."""
    distinct, index = torch.unique(b.ids, return_inverse=True)
    items = torch.nn.functional.normalize(torch.randn(len(distinct), args.dim), dim=1)
    query = torch.nn.functional.normalize(torch.randn(args.batch, args.dim), dim=1)
    known, t = torch.ones(len(index), dtype=torch.bool), torch.full((), 10.0, requires_grad=True)

    sequence = SequenceBatch(b.lengths, b.row, index)

    def forward() -> Tensor:
        s = pair_dots(items, query, sequence)
        weights = masked_segment_softmax(s * t, known, b.row, b.lengths)
        return gathered_sum(items, index, b.lengths, weights)

    return {
        "products_forward_ms": figures.seconds(forward) * 1e3,
        "products_forward_backward_ms": figures.seconds(lambda: forward().sum().backward()) * 1e3,
    }
