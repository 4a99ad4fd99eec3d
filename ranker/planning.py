"""Sharding plans for a cluster that is not here: TorchRec's planner over a synthetic topology.

Tables are on the meta device, so that one of 10 billion rows costs nothing to plan.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.modules.embedding_configs import DataType, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from ranker.config import TableOptimizer
from ranker.sharding import table_optimizer

GIB = 2**30
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
KINDS = {"fp32": DataType.FP32, "fp16": DataType.FP16, "int8": DataType.INT8}
STATE_BYTES = {"sgd": 0.0, "adagrad": 4.0, "rowwise_adagrad": 0.0, "adam": 8.0}  # a number of the table, fused states
ROW_STATE_BYTES = {"rowwise_adagrad": 4}


@dataclass(frozen=True)
class PlannedTable:
    """A table to place: rows x dim of `precision` (fp32, fp16, int8); `ids`: look-ups a sample, after deduplication.

    constraint: as of `ranker.sharding.constraints`. trained: whether it has an optimizer.
    """

    name: str
    rows: int
    dim: int
    precision: str
    ids: float
    constraint: ParameterConstraints
    trained: bool = True

    def weight_bytes(self) -> int:
        """Size of the values."""
        return self.rows * self.dim * BYTES[self.precision]

    def state_bytes(self, optimizer: TableOptimizer) -> int:
        """Size of the fused optimizer's state."""
        if not self.trained:
            return 0
        return int(self.rows * (self.dim * STATE_BYTES[optimizer.kind] + ROW_STATE_BYTES.get(optimizer.kind, 0)))


@dataclass(frozen=True)
class Cluster:
    """ranks of `hbm_gib` GiB and `ddr_gib` GiB of host memory each, `ranks_per_host` a host; bandwidths in GB/s.

    reserved: share of the memory left to the dense part, activations and the allocator.
    """

    ranks: int
    hbm_gib: float
    ddr_gib: float = 128.0
    ranks_per_host: int = 8
    reserved: float = 0.15
    hbm_gbps: float = 4800.0
    intra_gbps: float = 450.0
    inter_gbps: float = 50.0

    @property
    def usable(self) -> float:
        """Bytes a rank for tables, their optimizers and buffers."""
        return self.hbm_gib * GIB * (1 - self.reserved)

    def topology(self) -> Topology:
        """As the planner wants it."""
        per_ms = 1e9 / 1e3
        return Topology(
            world_size=self.ranks,
            compute_device="cuda",
            hbm_cap=int(self.hbm_gib * GIB),
            ddr_cap=int(self.ddr_gib * GIB),
            local_world_size=min(self.ranks, self.ranks_per_host),
            hbm_mem_bw=self.hbm_gbps * per_ms,
            intra_host_bw=self.intra_gbps * per_ms,
            inter_host_bw=self.inter_gbps * per_ms,
        )


@dataclass
class Plan:
    """What the planner found. layout: (kind, shards, total bytes) by table; bytes and milliseconds of every rank.

    problems: one line a reason where nothing fits; then the rest is empty.
    """

    layout: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rank_bytes: list[int] = field(default_factory=list)
    rank_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def plan_tables(tables: list[PlannedTable], cluster: Cluster, batch_size: int, optimizer: TableOptimizer) -> Plan:
    """Place the tables on the cluster; `batch_size` rows a rank and step."""
    if hopeless := problems(tables, cluster, optimizer):
        return Plan(problems=hopeless)
    planner = EmbeddingShardingPlanner(
        topology=cluster.topology(),
        batch_size=batch_size,
        constraints={t.name: _constraint(t) for t in tables},
        storage_reservation=FixedPercentageStorageReservation(cluster.reserved),
    )
    sharder: Any = EmbeddingCollectionSharder()
    try:
        planner.plan(_modules(tables, optimizer), [sharder])
    except PlannerError as error:
        return Plan(problems=[_together(tables, cluster, optimizer, error)])
    found = Plan(rank_bytes=[0] * cluster.ranks, rank_ms=[0.0] * cluster.ranks)
    for option in planner._best_plan or []:
        total = 0
        for shard in option.shards:
            assert shard.rank is not None and shard.storage is not None and shard.perf is not None
            total += shard.storage.hbm
            found.rank_bytes[shard.rank] += shard.storage.hbm
            found.rank_ms[shard.rank] += shard.perf.total
        found.layout[option.name] = (option.sharding_type, len(option.shards), total)
    return found


def problems(tables: list[PlannedTable], cluster: Cluster, optimizer: TableOptimizer) -> list[str]:
    """Why tables do not fit even by themselves, a line each."""
    whole, lines = cluster.usable * cluster.ranks, []
    for t in tables:
        weights, state = t.weight_bytes(), t.state_bytes(optimizer)
        size = f"{t.name}: {t.rows:,} x {t.dim} {t.precision} is {_size(weights)}" + (
            f" plus {_size(state)} of {optimizer.kind} state" if state else ""
        )
        kinds = t.constraint.sharding_types or []
        if weights + state > whole:
            fits = int(t.dim * whole / (weights + state)) // 4 * 4
            advice = f"; {fits} dimensions would fit" if fits >= 4 else "; not even 4 dimensions would fit"
            if optimizer.kind in ("adagrad", "adam") and weights <= whole and t.trained:
                advice += ", or rowwise_adagrad, whose state is 4 bytes a row"
            lines.append(f"{size}, the cluster has {_size(whole)} for tables{advice}")
        elif "row_wise" not in kinds:
            narrowest = max(t.constraint.min_partition or 128, 4) / t.dim if "column_wise" in kinds else 1.0
            part = (weights + state) * min(1.0, narrowest)
            if part > cluster.usable:
                lines.append(
                    f"{size}, a shard of {_size(part)} exceeds the {_size(cluster.usable)} of a rank; allow row_wise"
                )
    return lines


def _together(tables: list[PlannedTable], cluster: Cluster, optimizer: TableOptimizer, error: Exception) -> str:
    """Why tables that fit by themselves do not fit together, or what else the planner says."""
    total, whole = sum(t.weight_bytes() + t.state_bytes(optimizer) for t in tables), cluster.usable * cluster.ranks
    return (
        f"all tables: {_size(total)} with optimizer states, and buffers of the look-ups beside them; there are "
        f"{_size(whole)} for tables ({cluster.ranks} x {cluster.hbm_gib:g} GiB, {cluster.reserved:.0%} reserved); the "
        f"planner: {' '.join(str(error).split())[:160]}"
    )


def _constraint(t: PlannedTable) -> ParameterConstraints:
    c = t.constraint
    return ParameterConstraints(c.sharding_types, ["fused", "dense"], c.min_partition, pooling_factors=[t.ids])


def _modules(tables: list[PlannedTable], optimizer: TableOptimizer) -> nn.Module:
    """One collection a table on the meta device, each with its fused optimizer."""
    root, meta = nn.Module(), torch.device("meta")
    kind, arguments = table_optimizer(optimizer, torch.device("cuda"))
    for t in tables:
        config = EmbeddingConfig(
            name=t.name,
            embedding_dim=t.dim,
            num_embeddings=t.rows,
            feature_names=[t.name],
            data_type=KINDS[t.precision],
        )
        collection = EmbeddingCollection(tables=[config], device=meta)
        if t.trained:
            apply_optimizer_in_backward(kind, collection.parameters(), arguments)
        else:
            for parameter in collection.parameters():
                parameter.requires_grad_(t.precision != "int8")
            apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": 0.0})
        root.add_module(t.name, collection)
    return root


def _size(n: float) -> str:
    return f"{n / 2**40:.2f} TiB" if n >= 2**40 else f"{n / GIB:.1f} GiB"
