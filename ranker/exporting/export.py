"""From a trained run to a published version of a package."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch

from data.dataset import Dataset
from data.files import write_parquet, write_text
from features.batch import Batch
from features.loader import Loader
from features.ranks import Ranks
from features.samples import SampleEncoder
from ranker.build import load_ranker
from ranker.exporting import parity
from ranker.exporting.card import card_facts, write_card
from ranker.exporting.dense_part import DensePart, exported
from ranker.exporting.formats import write_aoti, write_onnx, write_program
from ranker.exporting.parity import Comparison
from ranker.exporting.recorded import recorded_requests
from ranker.exporting.tables import read_rows, table_state, write_tables
from ranker.item_vectors import is_stored
from ranker.model import Ranker
from ranker.run_folder import RunFolder
from ranker.serving.catalogue import write_catalogue
from ranker.serving.dense_inputs import flat_inputs
from ranker.serving.host_tables import HostTables, TableDtype
from ranker.serving.model import Model
from ranker.serving.package import DenseDtype, Package, content_hash, current_version, new_version, seal
from ranker.serving.requests import requests_of
from ranker.serving.runtimes import Runtime
from ranker.serving.signature import signature
from ranker.serving.vectors import VectorFacts, embed_store, embed_trained

SPLIT = "valid"
EXAMPLES = 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Choice:
    """How to export. programs: formats to write. rows: recorded valid rows to compare."""

    tables: TableDtype = "float32"
    dense: DenseDtype = "float32"
    programs: tuple[Runtime, ...] = ("aoti", "program", "onnx")
    rows: int = 20_000


def export(
    run: RunFolder, dataset: Dataset, out: Path, ranks: Ranks, choice: Choice, stores: dict[str, Path] | None = None
) -> tuple[dict[str, Any], Path]:
    """Export the best checkpoint of a run as a new version under `out`; returns the card and the version's folder.

    `stores`: representation stores by name, instead of those that the run recorded.
    Raises InputError if a compiler or a checkpoint is missing, or if the package does not pass ranker.exporting.parity.
    """
    model, samples = load_ranker(run, dataset, ranks, stores=stores)
    encoder, trained = samples.encoder, run.meta().get("trained_encoders", {})
    like = next(Loader(samples, SPLIT, min(choice.rows, parity.SCORING_BATCH)).epoch())
    eager = parity.eager_scores(model, samples, SPLIT, ranks.device, choice.rows)

    @cache
    def beside_edges() -> list[np.ndarray]:
        again, _ = load_ranker(run, dataset, ranks, stores=stores)  # the dense part takes the model's tables away
        return parity.scores_beside_edges(again, samples, SPLIT, ranks.device, choice.rows)

    with new_version(out) as folder:
        shapes = write_tables(model, folder / "tables", choice.tables)
        write_catalogue(encoder, "item", dataset.items().collect(), folder / "items")
        write_catalogue(encoder, "user", dataset.users().collect(), folder / "users")
        for name, source in samples.vectors.items():
            ids, own = dataset.items().select("item_id").collect()["item_id"], folder / "stores" / name
            if source.spec.mode == "end_to_end":
                embed_trained(source, ids, own, trained[name], partial(read_rows, table_state(model)[name]))
            else:
                embed_store(source, ids, own)
        encoder.save(folder / "encoder")
        write_text(folder / "recipe.yaml", (run.root / "config.yaml").read_text())
        part = DensePart(cast(Ranker, model.module), like, DTYPES[choice.dense])
        inputs, left_out, devices = _write_programs(part, folder, samples, like, choice, ranks.device)
        recipe = run.recipe()
        package = Package(
            name=recipe.name,
            tables=choice.tables,
            dense=choice.dense,
            cpu=torch.backends.cpu.get_cpu_capability(),
            devices=devices,
            vectors=_vector_facts(samples, trained),
            inputs=inputs,
            signature=signature(recipe.features, dataset),
        )  # pyright: ignore[reportCallIssue]
        seal(folder, package)
        written: tuple[Runtime, ...] = tuple(p for p in choice.programs if p not in left_out)
        comparisons, served = _judge(folder, samples, eager, beside_edges, choice, written, devices)
        package = package.model_copy(update={"hash": content_hash(folder)})
        found = {
            "parity": parity.facts(comparisons),
            "parity_lines": [c.line() for c in comparisons],
            "served_as_requests": served,
            "left_out": left_out,
            "tables": {name: {"rows": rows, "dim": dim} for name, (rows, dim) in shapes.items()},
            "memory": {
                "tables_bytes": HostTables(folder / "tables", encoder.spec).bytes,
                "tables_bytes_float32": sum(rows * dim * 4 for rows, dim in shapes.values()),
            },
        }
        facts = card_facts(run, dataset, package, found)
        write_card(folder, facts, package)
        seal(folder, package)
    return facts, current_version(out)


def _vector_facts(samples: SampleEncoder, trained: dict[str, str]) -> dict[str, VectorFacts]:
    """`trained`: encoders that the run trained, by name of the vectors; items that come later need vectors of those."""
    return {
        name: VectorFacts(
            encoder=trained[name] if name in trained else source.version.meta["encoder"],
            dim=source.dim,
            table=not is_stored(source.spec),
        )
        for name, source in samples.vectors.items()
    }


def _write_programs(
    part: DensePart, folder: Path, samples: SampleEncoder, like: Batch, choice: Choice, device: torch.device
) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Trace and write the computed part; returns its inputs, what was left out and why, and the compiled devices."""
    rows = HostTables(folder / "tables", samples.encoder.spec).rows(like.ids)
    rows |= {name: torch.zeros(len(ids), samples.vectors[name].dim) for name, ids in like.vectors.items()}
    inputs = flat_inputs(rows, like)
    left_out: dict[str, str] = {}
    cpu = torch.device("cpu")
    program = exported(part.to(cpu), inputs)
    compiled: tuple[str, ...] = ()
    if "program" in choice.programs:
        write_program(program, folder)
    if "aoti" in choice.programs:
        write_aoti(program, folder, cpu)
        compiled = ("cpu",)
    if "onnx" in choice.programs and (reason := write_onnx(program, inputs, folder)):  # last: it leaves marks on shapes
        left_out["onnx"] = reason
    if "aoti" in choice.programs and device.type != "cpu":
        there = {name: tensor.to(device) for name, tensor in inputs.items()}
        write_aoti(exported(part.to(device), there), folder, device)
        compiled += (device.type,)
    return tuple(inputs), left_out, compiled


def _judge(
    folder: Path,
    samples: SampleEncoder,
    eager: np.ndarray,
    beside_edges: Callable[[], list[np.ndarray]],
    choice: Choice,
    programs: tuple[Runtime, ...],
    devices: tuple[str, ...],
) -> tuple[list[Comparison], dict[str, Any]]:
    """Every format against the trained model; then recorded rows as requests, which are kept as examples."""
    dataset, exact = samples.dataset, (choice.tables, choice.dense) == ("float32", "float32")
    label = dataset.samples(SPLIT).select("label").collect()["label"].to_numpy()[: len(eager)]
    compiled: list[tuple[Runtime, str]] = [("aoti", device) for device in devices]
    others: list[tuple[Runtime, str]] = [(runtime, "cpu") for runtime in programs if runtime != "aoti"]
    runs = compiled + others
    comparisons: list[Comparison] = []
    scores = eager
    for runtime, device in runs:
        scores = parity.package_scores(Model(folder, runtime, torch.device(device)), samples, SPLIT, len(eager))
        comparisons.append(parity.compare(f"{runtime} on {device}", label, eager, scores, exact, beside_edges))
        parity.require(comparisons)
    model = Model(folder, runs[-1][0], torch.device("cpu"))
    served = parity.skew(model, dataset, SPLIT, scores)
    requests = recorded_requests(dataset, SPLIT, model.package.signature, slice(0, EXAMPLES))
    found = model.score(requests_of(model.package.signature, requests)).probability
    (folder / "examples").mkdir()
    write_parquet(folder / "examples" / "requests.parquet", requests)
    write_parquet(folder / "examples" / "scores.parquet", pl.DataFrame({"score": found}))
    return comparisons, served
