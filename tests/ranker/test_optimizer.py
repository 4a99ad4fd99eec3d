"""Fused table optimizers through DistributedModelParallel against plain torch, the OOV row, and the schedule."""

import pytest
import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.errors import InputError
from features.ranks import Ranks
from ranker.config import Schedule, TableOptimizer
from ranker.optimizer import schedule_factor
from ranker.sharding import table_optimizer

ROWS, DIM, STEPS = 20, 4, 50


def batches(seed: int = 0) -> list[torch.Tensor]:
    """Ids with many repeats; row 0 never occurs."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(1, ROWS - 3, (31,), generator=g) for _ in range(STEPS)]


def loss(rows: torch.Tensor, step: int) -> torch.Tensor:
    target = torch.sin(torch.arange(rows.numel(), dtype=rows.dtype).view_as(rows) + step)
    return ((rows - target) ** 2).sum()


def fused(config: TableOptimizer, ranks: Ranks, start: torch.Tensor) -> torch.Tensor:
    """The table after STEPS steps of the real path."""
    collection = EmbeddingCollection(
        tables=[EmbeddingConfig(name="t", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["f"])],
        device=torch.device("meta"),
    )
    optimizer, arguments = table_optimizer(config, ranks.device)
    apply_optimizer_in_backward(optimizer, collection.parameters(), arguments)
    model = DistributedModelParallel(collection, device=ranks.device, sharders=[EmbeddingCollectionSharder()])  # pyright: ignore
    table = next(iter(model.state_dict().values())).local_shards()[0].tensor
    with torch.no_grad():
        table.copy_(start)
    for step, ids in enumerate(batches()):
        keyed = KeyedJaggedTensor(keys=["f"], values=ids, lengths=torch.tensor([len(ids)]))
        loss(model(keyed)["f"].values(), step).backward()
    return table.clone()


class RowWise:
    """Rowwise Adagrad: one accumulator a row, the mean of the squared gradient (Gupta et al. 2014)."""

    def __init__(self, parameter: nn.Parameter, lr: float, eps: float) -> None:
        self.parameter, self.lr, self.eps = parameter, lr, eps
        self.sums = torch.zeros(len(parameter), dtype=parameter.dtype)

    @torch.no_grad()
    def step(self) -> None:
        gradient = self.parameter.grad
        assert gradient is not None
        self.sums += (gradient**2).mean(1)
        self.parameter -= self.lr * gradient / (self.sums.sqrt() + self.eps).unsqueeze(1)


def reference(config: TableOptimizer, start: torch.Tensor) -> torch.Tensor:
    table = nn.Parameter(start.double().clone())
    if config.kind == "sgd":
        optimizer = torch.optim.SGD([table], lr=config.lr)
    elif config.kind == "adagrad":
        optimizer = torch.optim.Adagrad([table], lr=config.lr, eps=config.eps)
    else:
        optimizer = RowWise(table, config.lr, config.eps)
    for step, ids in enumerate(batches()):
        table.grad = None
        loss(table[ids], step).backward()
        optimizer.step()
    return table.detach()


@pytest.mark.parametrize(("kind", "lr"), [("sgd", 0.01), ("adagrad", 0.1), ("rowwise_adagrad", 0.1)])
def test_fused_equals_plain_torch_over_fifty_steps_with_repeats(kind, lr, ranks):
    start = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    config = TableOptimizer(kind=kind, lr=lr)  # pyright: ignore
    found, expected = fused(config, ranks, start), reference(config, start)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    untouched = [0, *range(ROWS - 3, ROWS)]
    assert torch.equal(found[untouched], start[untouched])
    assert not torch.equal(found[1:5], start[1:5])


def test_adam_for_tables_on_a_cpu_is_one_clear_line():
    with pytest.raises(InputError, match="adam is fused on CUDA only; on a CPU use sgd, adagrad or rowwise_adagrad"):
        table_optimizer(TableOptimizer(kind="adam"), torch.device("cpu"))  # pyright: ignore


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fbgemm has fused Adam on CUDA only; there is no GPU here")
def test_fused_adam_equals_plain_torch_on_a_gpu(ranks):
    start = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    kind, arguments = table_optimizer(TableOptimizer(kind="adam", lr=0.01), ranks.device)  # pyright: ignore
    assert kind is torch.optim.Adam and arguments["lr"] == 0.01
    collection = EmbeddingCollection(
        tables=[EmbeddingConfig(name="t", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["f"])],
        device=torch.device("meta"),
    )
    apply_optimizer_in_backward(kind, collection.parameters(), arguments)
    model = DistributedModelParallel(collection, device=ranks.device, sharders=[EmbeddingCollectionSharder()])  # pyright: ignore
    shard = next(iter(model.state_dict().values())).local_shards()[0].tensor
    with torch.no_grad():
        shard.copy_(start)
    table = nn.Parameter(start.double())
    plain = torch.optim.Adam([table], lr=0.01, eps=arguments["eps"])
    # plain Adam moves every row in every step, the fused one those of the batch: each row occurs, some more than once
    for step, repeats in enumerate(batches()):
        every = torch.cat([torch.arange(1, ROWS), repeats])
        keyed = KeyedJaggedTensor(keys=["f"], values=every, lengths=torch.tensor([len(every)])).to(ranks.device)
        loss(model(keyed)["f"].values().cpu(), step).backward()
        plain.zero_grad()
        loss(table[every], step).backward()
        plain.step()
    assert torch.allclose(shard.cpu()[1:].double(), table.detach()[1:], atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        (Schedule(), 7, 1.0),
        (Schedule(warmup_steps=4), 0, 0.25),
        (Schedule(warmup_steps=4), 3, 1.0),
        (Schedule(decay="linear"), 50, 0.5),
        (Schedule(decay="linear", floor=0.2), 100, 0.2),
        (Schedule(decay="cosine"), 50, 0.5),
        (Schedule(warmup_steps=20, decay="linear"), 60, 0.5),
    ],
)
def test_schedule(schedule, step, factor):
    assert schedule_factor(schedule, step, 100) == pytest.approx(factor)
