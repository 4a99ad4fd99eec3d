"""Spatial negatives on two ranks against one rank with the union batch; the queue against a plain list."""

import torch
import torch.distributed as dist

from moon_encoder.losses import info_nce
from moon_encoder.negatives import Block, Labels, Queue, gather
from tests.moon_encoder.on_ranks import on_two_ranks


def batch(rows):
    """Inputs (8, 5) of two encoders and labels in which a product and a user cross the ranks; the rows asked for."""
    torch.manual_seed(0)
    query, item = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    labels = Labels(torch.arange(8), torch.tensor([0, 1, 2, 3, 4, 1, 6, 7]), torch.tensor([0, 1, 2, 3, 2, 5, 6, 7]))
    return query[rows], item[rows], labels[rows]


def loss_and_gradient(rows):
    query, item, labels = batch(rows)
    torch.manual_seed(1)
    weight = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    block = Block(item @ weight, labels)
    loss = info_nce(query @ weight, block.vectors, labels, [gather(block)], 10.0)
    (grad,) = torch.autograd.grad(loss, weight)
    return loss.detach(), grad


def _rank(rank, folder):
    loss, grad = loss_and_gradient(slice(4 * rank, 4 * rank + 4))
    for tensor in (loss, grad):  # the mean over ranks, as DDP takes it
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save((loss, grad), folder / "out.pt")


def test_two_ranks_equal_one_rank_with_the_union(tmp_path):
    on_two_ranks(_rank, tmp_path)
    loss, grad = torch.load(tmp_path / "out.pt")
    expected_loss, expected_grad = loss_and_gradient(slice(0, 8))
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-10)
    halves = [loss_and_gradient(slice(a, a + 4))[0] for a in (0, 4)]
    assert abs(sum(halves) / 2 - loss) > 1e-3  # the other rank's items do count


def test_the_queue_holds_the_last_entries_and_no_gradient():
    queue, everything = Queue(7, 3), []
    for start, count in ((0, 3), (3, 3), (6, 4), (10, 9), (19, 2)):
        ids = torch.arange(start, start + count)
        vectors = (ids[:, None] * torch.ones(3)).requires_grad_()
        queue.push(Block(vectors * 1, Labels(ids, ids + 100, ids + 200)))
        everything += ids.tolist()
        block = queue.block()
        assert sorted(block.labels.item.tolist()) == everything[-7:]
        assert torch.equal(block.vectors[:, 0].long(), block.labels.item)
        assert torch.equal(block.labels.group - 100, block.labels.item) and not block.vectors.requires_grad
    again = Queue(7, 3)
    again.load_state_dict(queue.state_dict())
    again.push(Block(torch.ones(1, 3), Labels(*torch.tensor([[50], [-1], [-1]]))))
    assert sorted(again.block().labels.item.tolist()) == [*everything[-6:], 50]


def test_exclusions():
    mine = Labels(torch.tensor([1, 2]), torch.tensor([5, -1]), torch.tensor([-1, 3]))
    pool = Labels(torch.tensor([1, 7, 8, 9, 2]), torch.tensor([-1, 5, -1, -1, 4]), torch.tensor([-1, -1, -1, 3, 4]))
    assert mine.excludes(pool).tolist() == [[True, True, False, False, False], [False, False, False, True, True]]
