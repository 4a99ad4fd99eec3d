"""A copy of a state dict that training may run away from while it is written."""

import copy
from typing import Any

from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor


def snapshot(value: Any) -> Any:
    """The same nested state with every tensor, and every local shard of one, copied."""
    if isinstance(value, dict):
        return {key: snapshot(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(inner) for inner in value)
    if isinstance(value, ShardedTensor):
        shards = [Shard(shard.tensor.detach().clone(), shard.metadata) for shard in value.local_shards()]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, value.metadata(), process_group=value._process_group
        )
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
