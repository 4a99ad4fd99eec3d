"""`python -m data.marketplace --out DIR`: write a simulated log."""

import argparse
import sys
from pathlib import Path

import yaml

from data.config import parse_config
from data.errors import InputError
from data.marketplace.config import Market
from data.marketplace.simulate import simulate


def main(argv: list[str]) -> int:
    """The command; raises InputError on a wrong field or an existing folder."""
    parser = argparse.ArgumentParser("python -m data.marketplace", description="Simulate raw logs of a marketplace.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of Market")
    args = parser.parse_args(argv)
    fields: dict[str, object] = {"seed": args.seed}
    for override in args.set:
        name, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"--set {override!r}: expected FIELD=VALUE")
        fields[name] = yaml.safe_load(value)
    print(simulate(parse_config(fields, Market, "--set"), args.out))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"marketplace: {error}", file=sys.stderr)
        sys.exit(2)
