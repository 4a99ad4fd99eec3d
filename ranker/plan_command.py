"""The command `moon plan`: where the tables of a recipe would lie on a cluster that is not here."""

import argparse
import math
import re
from itertools import product
from pathlib import Path
from typing import Any

from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from features.encoder import FeatureEncoder
from features.spec import BucketFeature, is_item, side_name
from ranker.config import Recipe
from ranker.planning import GIB, Cluster, Plan, PlannedTable, plan_tables
from ranker.sharding import constraints

TABLE = re.compile(r"^(?P<name>[^=]+)=(?P<rows>[0-9.e+]+)(:(?P<dims>[0-9,]+))?(:(?P<precision>fp32|fp16|int8))?$")


def main(argv: list[str]) -> int:
    """Returns 0 if every variant fits, 1 if one does not."""
    parser = argparse.ArgumentParser("moon plan", description="Sharding plan of a recipe for a cluster that is absent.")
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("--data", type=Path, help="prepared dataset: rows of the tables that --table does not name")
    parser.add_argument("--world-size", type=int, required=True, help="ranks")
    parser.add_argument("--hbm-gib", type=float, required=True, help="memory of a rank's device, GiB")
    parser.add_argument("--ddr-gib", type=float, default=128.0, help="host memory a rank, GiB")
    parser.add_argument("--ranks-per-host", type=int, default=8)
    parser.add_argument("--reserved", type=float, default=0.15, help="share of the memory that tables may not use")
    parser.add_argument(
        "--bandwidths", type=float, nargs=3, default=(4800.0, 450.0, 50.0), metavar=("HBM", "INTRA", "INTER"),
        help="GB/s: memory, within a host, between hosts",
    )  # fmt: skip
    parser.add_argument("--distinct", type=float, default=1.0, help="distinct items a batch over its items, 0 to 1")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument(
        "--table", action="append", default=[], metavar="NAME=ROWS[:DIM,DIM...][:fp16]",
        help="size of a table or of item vectors, such as item=10e9:16,64,128 (a plan for each) or image=1e9:128:fp16",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    recipe = load_config(args.config, Recipe, args.set)
    if args.world_size < 1 or args.hbm_gib <= 0 or not 0 < args.distinct <= 1 or not 0 <= args.reserved < 1:
        raise InputError("--world-size and --hbm-gib must be above 0, --distinct in (0, 1], --reserved in [0, 1)")
    cluster = Cluster(args.world_size, args.hbm_gib, args.ddr_gib, args.ranks_per_host, args.reserved, *args.bandwidths)
    given = dict(_given(word) for word in args.table)
    encoder = FeatureEncoder.fit(recipe.features, Dataset(args.data)) if args.data else None
    variants = planned_tables(recipe, given, encoder, args.distinct, args.world_size)
    found = []
    for tables in variants:
        plan = plan_tables(tables, cluster, recipe.train.batch_size, recipe.train.tables)
        print(text(tables, plan, cluster, recipe.train.batch_size))
        found.append(_facts(tables, plan))
    if args.json:
        write_json(args.json, {"cluster": vars(cluster), "variants": found})
    return int(any(variant["problems"] for variant in found))


def _given(word: str) -> tuple[str, tuple[int, list[int] | None, str]]:
    """(name, (rows, dims, precision)) of one --table."""
    match = TABLE.match(word)
    try:
        rows = int(float(match["rows"])) if match else 0
    except ValueError:
        rows = 0
    if match is None or rows < 1:
        raise InputError(f"--table {word}: expected NAME=ROWS[:DIM,DIM...][:fp32|fp16|int8], such as item=10e9:64:fp16")
    dims = [int(d) for d in match["dims"].split(",") if d] if match["dims"] else None
    if dims and any(d < 4 or d % 4 for d in dims):
        raise InputError(f"--table {word}: a table needs a multiple of 4 dimensions")
    return match["name"], (rows, dims, match["precision"] or "fp32")


def planned_tables(
    recipe: Recipe,
    given: dict[str, tuple[int, list[int] | None, str]],
    encoder: FeatureEncoder | None,
    distinct: float,
    world_size: int,
) -> list[list[PlannedTable]]:
    """The tables to place, once for every combination of the dims that `given` lists.

    Raises InputError for a table whose size is not known, or that the recipe does not have.
    """
    spec, allowed = recipe.features, constraints(recipe, world_size)
    names = [*spec.tables_in_use(), *(v.name for v in spec.vectors)]
    strange = [name for name in given if name not in names]
    if strange:
        raise InputError(f"--table {strange[0]}: the recipe has no such table; it has {', '.join(names)}")
    ids, vectors = _ids(recipe, distinct), {v.name: v for v in spec.vectors}
    options: list[list[PlannedTable]] = []
    for name in names:
        if name not in allowed:  # a copy on every rank, like the dense part
            continue
        rows, dims, precision = given.get(name) or (_rows(recipe, name, encoder), None, "fp32")
        own = vectors.get(name)
        dims = dims or [_vector_dim(name, own.dim) if own else spec.table(name).dim]
        trained = own is None or own.mode == "finetuned"
        if trained and precision == "int8":
            raise InputError(f"--table {name}: int8 tables cannot be trained")
        options.append([PlannedTable(name, rows, dim, precision, ids[name], allowed[name], trained) for dim in dims])
    return [list(chosen) for chosen in product(*options)]


def _vector_dim(name: str, dim: int | None) -> int:
    if dim is None:
        raise InputError(f"features.vectors {name!r} have no dim; give --table {name}=ROWS:DIM")
    return dim


def _rows(recipe: Recipe, table: str, encoder: FeatureEncoder | None) -> int:
    """Rows of a table that no --table names."""
    spec = recipe.features
    if encoder is not None and table in spec.tables_in_use():
        return encoder.rows(table)
    if hashed := (spec.table(table).hash_rows if table in spec.tables_in_use() else None):
        return hashed
    own = {f.table or f.name: f for f in spec.features if isinstance(f, BucketFeature)}
    own |= {f.table or side_name(s, f): f for s in spec.sequences for f in s.side if isinstance(f, BucketFeature)}
    if table in own:
        cuts = own[table].boundaries
        return 2 + (len(cuts) if cuts is not None else own[table].quantiles or 0)
    raise InputError(f"rows of table {table!r} are not known; give --data DIR or --table {table}=ROWS")


def _ids(recipe: Recipe, distinct: float) -> dict[str, float]:
    """Look-ups a sample of every table and store: an item feature once for each distinct item of the batch."""
    spec, batch = recipe.features, recipe.train.batch_size
    behaviours = {s.name: float(s.length) for s in spec.sequences}
    items = (1 + sum(behaviours.values())) * distinct
    found: dict[str, float] = {v.name: items for v in spec.vectors}
    by_name = {f.name: f for f in spec.features}
    for table, name in spec.lookups():
        feature, sequence = by_name.get(name), next((s for s in spec.sequences if name.startswith(f"{s.name}_")), None)
        if feature is not None:
            count = items if is_item(feature) else 1.0  # pyright: ignore[reportArgumentType]
        elif sequence is not None:  # distinct combinations of side values, far fewer than behaviours
            count = min(behaviours[sequence.name], 4096 / batch)
        else:
            count = items
        found[table] = found.get(table, 0.0) + count
    return found


def text(tables: list[PlannedTable], plan: Plan, cluster: Cluster, batch_size: int) -> str:
    """The plan, a line a table, then memory and time of a rank; or what does not fit."""
    head = ", ".join(f"{t.name} {t.rows:,} x {t.dim} {t.precision}" for t in sorted(tables, key=lambda t: -t.rows)[:3])
    lines = [f"{cluster.ranks} ranks of {cluster.hbm_gib:g} GiB, {batch_size:,} rows a rank: {head}"]
    if plan.problems:
        return "\n".join([*lines, *(f"  does not fit: {problem}" for problem in plan.problems)])
    for name, (kind, shards, total) in plan.layout.items():
        lines.append(f"  {name}: {kind}, {shards} shard(s), {total / GIB:,.2f} GiB in all")
    top, low = max(plan.rank_bytes) / GIB, min(plan.rank_bytes) / GIB
    lines.append(f"  memory of a rank: {low:,.1f} to {top:,.1f} GiB of {cluster.usable / GIB:,.1f} GiB for tables")
    slowest = max(plan.rank_ms)
    if math.isfinite(slowest):
        rate = cluster.ranks * batch_size / slowest * 1e3
        lines.append(
            f"  predicted step of the tables: {slowest:.2f} ms (at most {rate:,.0f} rows/s), dense part not counted"
        )
    return "\n".join(lines)


def _facts(tables: list[PlannedTable], plan: Plan) -> dict[str, Any]:
    sizes = {t.name: {"rows": t.rows, "dim": t.dim, "precision": t.precision, "ids_a_sample": t.ids} for t in tables}
    layout = {name: dict(zip(("kind", "shards", "bytes"), facts, strict=True)) for name, facts in plan.layout.items()}
    return {
        "tables": {name: sizes[name] | layout.get(name, {}) for name in sizes},
        "rank_bytes": plan.rank_bytes,
        "rank_ms": plan.rank_ms,
        "problems": plan.problems,
    }
