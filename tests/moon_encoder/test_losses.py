"""Losses against their definitions in plain loops (float64), by gradient check, and in bounded memory."""

import math
import os
import subprocess
import sys

import pytest
import torch

from moon_encoder import losses
from moon_encoder.losses import Temperature, circle, info_nce, matryoshka, triplet
from moon_encoder.negatives import NOBODY, Block, Earlier, Labels


def case(seed=0, queries=5, extra=7, dim=6):
    """Queries, positives, their labels and a pool: the positives, then others; users and products repeat."""
    torch.manual_seed(seed)
    query, positive, others = (torch.randn(n, dim, dtype=torch.float64) for n in (queries, queries, extra))
    labels = Labels(torch.arange(queries), torch.tensor([0, 1, 1, NOBODY, NOBODY]), torch.tensor([9, 8, 7, 9, NOBODY]))
    theirs = Labels(torch.arange(2, 2 + extra), torch.full((extra,), NOBODY), torch.full((extra,), NOBODY))
    return query, positive, labels, [Block(positive, labels), Block(others, theirs)]


def allowed(labels, pool):
    """(query, negative vector) pairs by the rule in words."""
    for i in range(len(labels)):
        for block in pool:
            for j in range(len(block.labels)):
                mine = [int(x[i]) for x in (labels.item, labels.group, labels.user)]
                theirs = [int(x[j]) for x in (block.labels.item, block.labels.group, block.labels.user)]
                if mine[0] != theirs[0] and all(
                    a != b or a == NOBODY for a, b in zip(mine[1:], theirs[1:], strict=True)
                ):
                    yield i, block.vectors[j]


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("dim", [None, 4])
def test_info_nce_is_its_definition(monkeypatch, chunk, dim):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    query, positive, labels, pool = case()
    total = 0.0
    for i in range(5):
        top = math.exp(cosine(query[i, :dim], positive[i, :dim]) / 0.1)
        rest = sum(math.exp(cosine(query[i, :dim], n[:dim]) / 0.1) for j, n in allowed(labels, pool) if j == i)
        total -= math.log(top / (top + rest)) / 5
    assert float(info_nce(query, positive, labels, pool, 10.0, dim)) == pytest.approx(total, abs=1e-12)


def queued(positive):
    """What a queue brings: the pool's last block as its entries, other vectors of the positives."""
    *_, pool = case()
    return Earlier(pool[1], torch.randn_like(positive))


@pytest.mark.parametrize("name", ["info_nce", "circle"])
def test_queued_entries_stand_against_the_positive_of_their_own_encoder(name):
    """Loss and gradient (float64) of the definition in plain loops: log(1 + sum e^(n - p) + sum e^(n' - p'))."""
    query, positive, labels, _ = case()
    earlier = queued(positive)
    query.requires_grad_()
    positive.requires_grad_()

    def up(s):
        return 10 * s if name == "info_nce" else 8 * (1.25 - s).detach().clamp(min=0) * (s - 0.75)

    def down(s):
        return 10 * s if name == "info_nce" else 8 * (s + 0.25).detach().clamp(min=0) * (s - 0.25)

    total = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        inside = torch.ones((), dtype=torch.float64)
        for own, blocks in ((positive, [Block(positive, labels)]), (earlier.positive, [earlier.block])):
            s_p = torch.cosine_similarity(query[i], own[i], dim=0)
            for j, n in allowed(labels, blocks):
                if j == i:
                    inside = inside + (down(torch.cosine_similarity(query[i], n, dim=0)) - up(s_p)).exp()
        total = total + inside.log() / 5
    more = (10.0,) if name == "info_nce" else (8.0, 0.25)
    loss = getattr(losses, name)(query, positive, labels, [Block(positive, labels)], *more, earlier=earlier)
    torch.testing.assert_close(loss, total, rtol=0, atol=1e-12)
    for got, expected in zip(
        torch.autograd.grad(loss, [query, positive]), torch.autograd.grad(total, [query, positive]), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_an_empty_queue_changes_nothing():
    query, positive, labels, pool = case()
    empty = Earlier(pool[1], torch.randn_like(positive))
    empty = Earlier(Block(empty.block.vectors[:0], empty.block.labels[:0]), empty.positive)
    for name in ("info_nce", "circle"):
        loss = getattr(losses, name)
        assert torch.equal(
            loss(query, positive, labels, pool, 8.0, earlier=empty), loss(query, positive, labels, pool, 8.0)
        )


def test_circle_is_its_definition():
    query, positive, labels, pool = case()
    g, m, total = 8.0, 0.25, 0.0
    for i in range(5):
        s_p = cosine(query[i], positive[i])
        top = math.exp(-g * max(1 + m - s_p, 0) * (s_p - 1 + m))
        s_n = [cosine(query[i], n) for j, n in allowed(labels, pool) if j == i]
        total += math.log(1 + sum(math.exp(g * max(s + m, 0) * (s - m)) for s in s_n) * top) / 5
    assert float(circle(query, positive, labels, pool, g, m)) == pytest.approx(total, abs=1e-12)


def test_circle_detaches_its_weights():
    """With the weights held fixed the loss is an ordinary function: its gradient must be that one's."""
    query, positive, labels, pool = case()
    query.requires_grad_()
    (grad,) = torch.autograd.grad(circle(query, positive, labels, pool, 8.0, 0.25), query)
    q, p = losses.unit(query), losses.unit(positive)
    keys, blocked = (
        torch.cat([losses.unit(b.vectors) for b in pool]),
        torch.cat([labels.excludes(b.labels) for b in pool], 1),
    )
    s_p, s_n = (q * p).sum(1), q @ keys.T
    a_p, a_n = (1.25 - s_p).clamp(min=0).data, (s_n + 0.25).clamp(min=0).data
    negatives = ((8 * a_n * (s_n - 0.25)).exp() * ~blocked).sum(1)
    expected = (1 + negatives * (-8 * a_p * (s_p - 0.75)).exp()).log().mean()
    torch.testing.assert_close(grad, torch.autograd.grad(expected, query)[0], rtol=1e-10, atol=1e-12)


def test_triplet_is_its_definition():
    query, positive, _, pool = case()
    negative = pool[1].vectors[:5]
    expected = (
        sum(max(cosine(q, n) - cosine(q, p) + 0.3, 0) for q, p, n in zip(query, positive, negative, strict=True)) / 5
    )
    assert float(triplet(query, positive, negative, 0.3)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dim", [None, 3])
def test_gradients_of_info_nce(monkeypatch, dim):
    monkeypatch.setattr(losses, "CHUNK", 3)
    query, positive, labels, pool = case()
    scale = torch.tensor(5.0, dtype=torch.float64)

    def loss(query, positive, others, scale):
        return info_nce(query, positive, labels, [Block(positive, labels), Block(others, pool[1].labels)], scale, dim)

    inputs = [x.clone().requires_grad_() for x in (query, positive, pool[1].vectors, scale)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_gradients_of_triplet():
    query, positive, _, pool = case()
    inputs = [x.clone().requires_grad_() for x in (query, positive, pool[1].vectors[:5])]
    assert torch.autograd.gradcheck(lambda *x: triplet(*x, margin=3.0), inputs)


def test_a_query_without_negatives_costs_nothing_and_gives_no_nan():
    query, positive, labels, _ = case()
    query.requires_grad_()
    alone = Labels(torch.zeros(5, dtype=torch.int64), labels.group, labels.user)
    for pool in ([], [Block(positive, alone)]):
        loss = info_nce(query, positive, alone, pool, 10.0)
        (grad,) = torch.autograd.grad(loss, query)
        assert float(loss.detach()) == 0 and not grad.any()


def test_matryoshka_is_the_weighted_mean_of_the_prefixes():
    query, positive, labels, pool = case()
    got = matryoshka(lambda d: info_nce(query, positive, labels, pool, 10.0, d), {2: 1.0, 6: 3.0})
    two, six = (float(info_nce(query, positive, labels, pool, 10.0, d)) for d in (2, None))
    assert float(got) == pytest.approx((two + 3 * six) / 4, abs=1e-12)


def test_temperature_starts_as_asked_and_stays_within_bounds():
    temperature = Temperature(0.05)
    assert float(temperature().detach()) == pytest.approx(20, rel=1e-5)
    temperature.log_scale.data.fill_(9.0)
    assert float(temperature().detach()) == pytest.approx(100, rel=1e-5)


MEASURE = """
import resource, torch
from moon_encoder.losses import info_nce
from moon_encoder.negatives import Block, Labels
torch.set_num_threads(1)
n, b, d = 196_800, 128, 32
queue, query = torch.randn(n, d), torch.randn(b, d, requires_grad=True)
none = lambda k: torch.full((k,), -1)
pool = [Block(queue, Labels(torch.arange(n), none(n), none(n)))]
def step(pool): info_nce(query, query.detach(), Labels(n + torch.arange(b), none(b), none(b)), pool, 10.0).backward()
step([Block(queue[:8192], pool[0].labels[:8192])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(pool)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_live_memory_is_flat_in_the_pool():
    """196,800 queued items: one (128, 196,800) float32 matrix would be 98,400 KiB; a chunk's is 4,096.

    glibc returns freed blocks at once under a fixed threshold, so the high-water mark shows what is alive and not
    how the heap is fragmented.
    """
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=env)
    assert int(done.stdout) < 30_000
