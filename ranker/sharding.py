"""Process group, sharding plan and DistributedModelParallel: one code path, world size 1 included."""

import hashlib
import logging
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DataParallelWrapper, DMPCollection
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from data.errors import InputError
from features.encoder import FeatureEncoder
from features.ranks import Ranks
from features.vector_source import VectorSource
from ranker.config import Recipe, Sharding, TableOptimizer
from ranker.item_vectors import is_trained
from ranker.local_parts import local_parts, table_of
from ranker.model import Ranker

# The planner warns about its own defaults, torch about the sharded tensors inside torchrec; neither is ours to mend.
for noisy in ("torchrec", "torch.fx._symbolic_trace"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
warnings.filterwarnings(
    "ignore",
    category=FutureWarning,
    module=r"torch|torchrec|ranker\.(build|sharding|checkpoint|train_log|exporting\.tables)",
)

CHUNK_ROWS = 65_536


def table_optimizer(config: TableOptimizer, device: torch.device) -> tuple[type[torch.optim.Optimizer], dict]:
    """Optimizer class and arguments that TorchRec fuses into the backward pass.

    Raises InputError for a kind that fbgemm does not have on this device.
    """
    if config.kind == "adam" and device.type != "cuda":
        raise InputError("train.tables.kind: adam is fused on CUDA only; on a CPU use sgd, adagrad or rowwise_adagrad")
    arguments: dict = {"lr": config.lr}
    if config.kind != "sgd":
        arguments["eps"] = config.eps
    classes = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
    return classes.get(config.kind, RowWiseAdagrad), arguments


class _Placed(DataParallelWrapper):
    """Puts the dense part on its device and leaves its gradients to `average_gradients`.

    DistributedDataParallel lays its buckets out anew after its first step, and gloo adds the parts of a bucket up in an
    order that depends on where they lie: a resumed run, whose first step is another one, would differ in the last bits
    on three ranks or more.
    """

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        dmp._dmp_wrapped_module = dmp._dmp_wrapped_module.to(device)


def distribute(
    model: Ranker, recipe: Recipe, sources: dict[str, VectorSource], ranks: Ranks
) -> tuple[DistributedModelParallel, ShardingPlan]:
    """Shard the tables, fuse their optimizers and wrap the dense part; tables and dense start from the seed.

    The initial values depend on the seed and the table's name only, not on the layout; tables of item vectors start
    from their stores.
    """
    optimizer, arguments = table_optimizer(recipe.train.tables, ranks.device)
    apply_optimizer_in_backward(optimizer, model.tables.collections.parameters(), arguments)
    for name, source in sources.items():
        rows = model.vectors.collections[name].parameters()
        if is_trained(source.spec):
            apply_optimizer_in_backward(optimizer, rows, {**arguments, "lr": source.spec.lr or arguments["lr"]})
        else:  # TorchRec shards no table without a fused optimizer; this one has no state and never meets a gradient
            apply_optimizer_in_backward(torch.optim.SGD, rows, {"lr": 0.0})
    group_size = _group_size(recipe.sharding, ranks)
    topology = Topology(world_size=group_size, local_world_size=group_size, compute_device=ranks.device.type)
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints(recipe, group_size))
    sharders = [EmbeddingCollectionSharder()]
    group = dist.group.WORLD
    assert group is not None
    plan = planner.collective_plan(model, sharders, group)  # pyright: ignore[reportArgumentType]
    if group_size < ranks.world_size:
        wrapped = DMPCollection(
            model,
            ranks.device,
            plan,
            ranks.world_size,
            group_size,
            group,
            sharders=sharders,  # pyright: ignore
            data_parallel_wrapper=_Placed(),
        )
    else:
        wrapped = DistributedModelParallel(
            model,
            device=ranks.device,
            plan=plan,
            sharders=sharders,  # pyright: ignore
            data_parallel_wrapper=_Placed(),
        )
    _initialise_tables(wrapped, recipe, sources)
    return wrapped, plan


def constraints(recipe: Recipe, world_size: int) -> dict[str, ParameterConstraints]:
    """What the planner may do with every table and every store of item vectors on so many ranks."""
    found = {}
    tables = recipe.features.tables_in_use()
    copied = recipe.sharding.copied(tables)
    for name in [*(t for t in tables if t not in copied), *(v.name for v in recipe.features.vectors)]:
        own = recipe.sharding.of(name, world_size)
        assert own.kinds is not None
        found[name] = ParameterConstraints(sharding_types=list(own.kinds), min_partition=own.narrowest)
    return found


def _group_size(sharding: Sharding, ranks: Ranks) -> int:
    """Ranks that share one copy of the tables."""
    size, rest = divmod(ranks.world_size, sharding.replicas)
    if rest or not size:
        raise InputError(f"sharding.replicas: {sharding.replicas} copies do not divide {ranks.world_size} ranks")
    if sharding.replicas > 1 and ranks.device.type != "cuda":
        raise InputError("sharding.replicas: TorchRec has 2D parallelism on CUDA only; on a CPU use 1")
    return size


def describe(
    plan: ShardingPlan, encoder: FeatureEncoder, sources: dict[str, VectorSource], copied: list[str], world_size: int
) -> str:
    """The plan in one line a table: rows x width, memory, sharding, ranks."""
    planned = {name: sharding for module in plan.plan.values() for name, sharding in module.items()}  # pyright: ignore
    layouts = {name: (sharding.sharding_type, sharding.ranks) for name, sharding in planned.items()}
    lines = []
    for name, (kind, ranks) in (
        layouts | {name: ("data_parallel", list(range(world_size))) for name in copied}
    ).items():
        source = sources.get(name)
        rows, dim = (source.table_rows, source.dim) if source else (encoder.rows(name), encoder.spec.table(name).dim)
        note = f", {source.spec.mode} vectors" if source else ""
        lines.append(f"  {name}: {rows:,} x {dim}, {rows * dim * 4 / 2**20:.1f} MiB, {kind}, ranks {ranks}{note}")
    return "\n".join(lines)


def _initialise_tables(model: DistributedModelParallel, recipe: Recipe, sources: dict[str, VectorSource]) -> None:
    """Fill every shard: of ids from `initial_rows`, of item vectors from their store."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            table = table_of(name)
            if table is None:
                continue
            chunk_rows = _from_store(sources[table]) if table in sources else _from_seed(recipe, table, value.size(1))
            for part in local_parts(value):
                _fill(part.values, chunk_rows, part.row, part.column)


def _from_seed(recipe: Recipe, table: str, width: int) -> Callable[[int], torch.Tensor]:
    std = recipe.features.table(table).init_std or recipe.train.tables.init_std
    return lambda chunk: initial_rows(table, recipe.seed, chunk, width, std)


def _from_store(source: VectorSource) -> Callable[[int], torch.Tensor]:
    def rows(chunk: int) -> torch.Tensor:
        start = chunk * CHUNK_ROWS
        return torch.from_numpy(source.block(start, min(start + CHUNK_ROWS, source.table_rows)))

    return rows


def _fill(out: torch.Tensor, chunk_rows: Callable[[int], torch.Tensor], row: int, column: int) -> None:
    """Write rows `row`.. and columns `column`.. of a table, which comes in chunks of CHUNK_ROWS, into `out`."""
    stop = row + out.size(0)
    for chunk in range(row // CHUNK_ROWS, -(-stop // CHUNK_ROWS)):
        first = chunk * CHUNK_ROWS
        rows = chunk_rows(chunk)
        begin, end = max(row, first), min(stop, first + CHUNK_ROWS)
        out[begin - row : end - row].copy_(rows[begin - first : end - first, column : column + out.size(1)])


def initial_rows(table: str, seed: int, chunk: int, width: int, std: float) -> torch.Tensor:
    """Rows chunk * CHUNK_ROWS .. of a table, normal with deviation `std`; the OOV row (0) is zero."""
    key = hashlib.sha256(f"{table}/{seed}/{chunk}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    rows = torch.randn(CHUNK_ROWS, width, generator=generator) * std
    if chunk == 0:
        rows[0] = 0
    return rows
