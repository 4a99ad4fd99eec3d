"""Initial rows depend on the seed and the table's name, not on how a table is cut into shards."""

import torch

from ranker.sharding import CHUNK_ROWS, _fill, initial_rows


def test_a_shard_holds_the_same_initial_rows_as_the_whole_table():
    rows, width = CHUNK_ROWS + 50, 6
    whole = torch.empty(rows, width)

    def chunk_rows(chunk: int) -> torch.Tensor:
        return initial_rows("item", 3, chunk, width, 0.1)

    _fill(whole, chunk_rows, 0, 0)
    assert not whole[0].any() and whole[1:].any(1).all()
    assert abs(whole.std().item() - 0.1) < 1e-3
    for row, column, height, columns in [(0, 0, 10, 6), (CHUNK_ROWS - 7, 0, 57, 6), (5, 2, 100, 3)]:
        shard = torch.empty(height, columns)
        _fill(shard, chunk_rows, row, column)
        assert torch.equal(shard, whole[row : row + height, column : column + columns])


def test_seed_and_name_give_other_rows():
    first = initial_rows("item", 0, 0, 4, 0.1)
    assert torch.equal(first, initial_rows("item", 0, 0, 4, 0.1))
    assert not torch.equal(first, initial_rows("item", 1, 0, 4, 0.1))
    assert not torch.equal(first, initial_rows("user", 0, 0, 4, 0.1))
