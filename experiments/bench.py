"""`moon bench WHAT`: measured speed; each bench is a file of its own."""

from importlib import import_module

from data.errors import InputError

BENCHES = {
    "peers": ("experiments.peers.compare_speed", "training speed of DIN, ours and FuxiCTR's, in one run"),
    "history": ("experiments.histories.bench", "a training step over 50, 200 and 1,000 behaviours, padded or not"),
    "serve": ("experiments.serving.command", "an exported model's server under load, too much of it, and for long"),
    "fuzz": ("experiments.serving.fuzz", "malformed requests to an exported model's server"),
}


def main(argv: list[str]) -> int:
    """The command: hands over to the bench named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: moon bench WHAT ...\n")
        print("\n".join(f"  {name:<8} {what}" for name, (_, what) in BENCHES.items()))
        return 0
    if argv[0] not in BENCHES:
        raise InputError(f"no bench {argv[0]!r}; benches: {', '.join(BENCHES)}")
    return import_module(BENCHES[argv[0]][0]).main(argv[1:])
