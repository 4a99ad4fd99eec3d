"""`moon bench WHAT`: measured speed; each bench is a file of its own."""

from importlib import import_module

from data.errors import InputError

BENCHES = {
    "loader": ("experiments.benches.training:loader", "rows/s of the loader by itself"),
    "train": ("experiments.benches.training", "rows/s of training, milliseconds of a step by part"),
    "similarity": ("experiments.benches.similarity", "the similarity kernel against its floor and copy bandwidth"),
    "embed": ("experiments.benches.embedding", "items/s of an encoder, share of peak"),
    "metrics": ("experiments.benches.metrics", "AUC, GAUC and slices of many rows"),
    "export": ("experiments.benches.exporting", "seconds to export a run, by program"),
    "peers": (
        "experiments.peers.compare_speed",
        "training speed of DIN, ours, FuxiCTR's and DeepCTR-Torch's, in one run",
    ),
    "history": ("experiments.histories.bench", "a training step over 50, 200 and 1,000 behaviours, padded or not"),
    "serve": ("experiments.serving.command", "an exported model's server under load, too much of it, and for long"),
    "fuzz": ("experiments.serving.fuzz", "malformed requests to an exported model's server"),
}


def main(argv: list[str]) -> int:
    """The command: hands over to the bench named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: moon bench WHAT ...\n")
        print("\n".join(f"  {name:<11} {what}" for name, (_, what) in BENCHES.items()))
        return 0
    if argv[0] not in BENCHES:
        raise InputError(f"no bench {argv[0]!r}; benches: {', '.join(BENCHES)}")
    module, _, function = BENCHES[argv[0]][0].partition(":")
    return getattr(import_module(module), function or "main")(argv[1:])
