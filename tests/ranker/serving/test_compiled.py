"""Compiled programs by their C interface: torch's own loader's results, from several threads, the interpreter free."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
import torch
from torch._inductor.package import load_package

from ranker.exporting.formats import write_aoti
from ranker.serving.compiled import Compiled, can_call
from ranker.serving.dense_inputs import flat_inputs
from ranker.serving.model import Model
from ranker.serving.requests import requests_of


@pytest.fixture(scope="module")
def model(exported):
    return Model(exported.package, runners=2)


@pytest.fixture(scope="module")
def path(model):
    return model.folder / "dense-cpu.pt2"


@pytest.fixture(scope="module")
def inputs(model):
    """Inputs of 16, 3 and 4,096 requests."""
    rows, pinned, found = pl.read_parquet(model.folder / "examples" / "requests.parquet"), model.pinned(), []
    for frame in (rows, rows[:3], pl.concat([rows] * 256)):
        batch, _ = model.requests.encode(requests_of(model.package.signature, frame), pinned)
        looked_up = model.tables.rows(batch.ids)
        looked_up |= {name: model.vectors[name].rows(ids, pinned[name]) for name, ids in batch.vectors.items()}
        found.append(flat_inputs(looked_up, batch))
    return found


def test_it_gives_what_torch_s_loader_gives(path, inputs):
    assert can_call(path)
    theirs, ours = load_package(str(path)), Compiled(path, 1)
    for flat in inputs:
        with torch.inference_mode():
            assert torch.equal(ours(flat), theirs(dict(flat)))


class Doubled(torch.nn.Module):
    def forward(self, values):
        return values.squeeze(1) * 2


class Summed(torch.nn.Module):
    """An operator that has no C interface in this type."""

    def forward(self, values, index):
        return torch.zeros(4, dtype=torch.bfloat16).index_add(0, index, values)


def test_a_program_with_operators_that_only_torch_s_loader_can_call_is_told_apart(tmp_path):
    values, index = torch.ones(3, dtype=torch.bfloat16), torch.tensor([0, 2, 2])
    write_aoti(torch.export.export(Summed(), (values, index)), tmp_path, torch.device("cpu"))
    assert not can_call(tmp_path / "dense-cpu.pt2")


def test_threads_get_their_own_results(path, inputs):
    program = Compiled(path, 2)
    alone = [program(flat) for flat in inputs]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: (i % 3, program(inputs[i % 3])), range(60)))
    assert all(torch.equal(result, alone[i]) for i, result in found)


def test_results_are_freed(tmp_path):
    values = torch.ones(50_000, 1)
    write_aoti(torch.export.export(Doubled(), (values,)), tmp_path, torch.device("cpu"))
    program = Compiled(tmp_path / "dense-cpu.pt2", 1)

    def own_mib():
        for _ in range(200):
            program({"values": values})  # 200 kB each
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

    assert own_mib() + 10 > own_mib()


def test_other_threads_run_while_it_computes(path, inputs):
    program, counted, done = Compiled(path, 1), [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1

    def progress(work):
        before, started = counted[0], time.perf_counter()
        while time.perf_counter() - started < 0.3:
            work()
        return counted[0] - before

    counter = threading.Thread(target=count)
    counter.start()
    try:
        free = progress(lambda: time.sleep(0.01))
        beside = progress(lambda: program(inputs[2]))
    finally:
        done.set()
        counter.join()
    assert beside > free / 20
