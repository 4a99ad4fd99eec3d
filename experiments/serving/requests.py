"""Requests of a given size for an exported model, from a dataset's own log."""

from pathlib import Path

import numpy as np
import tritonclient.http

from data.dataset import Dataset
from data.errors import InputError
from experiments.serving.load import http_message
from ranker.exporting.recorded import recorded_requests, tensors_of
from ranker.serving.package import current_version, open_package
from ranker.serving.signature import HISTORY, Signature

POOL = 20_000  # test rows that are looked at


def sized_requests(package: Path, dataset: Dataset, candidates: int, history: int, count: int) -> list[dict]:
    """Tensors of `count` requests: users of test rows with their last `history` behaviours, and random items shown.

    Raises InputError if too few test rows have such a history.
    """
    own, rng = open_package(current_version(package)).signature, np.random.default_rng(0)
    frame = dataset.samples("test").select("history_end").collect()["history_end"].to_numpy()[:POOL]
    rows = np.flatnonzero(frame >= history)
    if len(rows) < count:
        raise InputError(f"{dataset.root}: {len(rows)} test rows have {history} behaviours; {count} are needed")
    chosen = np.sort(rng.choice(rows, count, replace=False))
    ids = dataset.items().select("item_id").collect()["item_id"].to_numpy()
    found = []
    for row in recorded_requests(dataset, "test", own, chosen).to_dicts():
        tensors = tensors_of(own, row)
        for name in own.names("behaviours"):
            tensors[name] = tensors[name][len(tensors[name]) - history :] if name.startswith(HISTORY) else tensors[name]
        tensors["item"] = rng.choice(ids, candidates, replace=len(ids) < candidates).astype(tensors["item"].dtype)
        found.append(tensors)
    return found


def http_messages(name: str, own: Signature, requests: list[dict]) -> list[bytes]:
    """The requests as Triton's client writes them, tensors in bytes."""
    found = []
    for tensors in requests:
        inputs = []
        for key, values in tensors.items():
            datatype = own.input(key).datatype
            tensor = tritonclient.http.InferInput(key, list(values.shape), datatype)
            inputs.append(tensor.set_data_from_numpy(values.astype(object) if datatype == "BYTES" else values))
        body, size = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
        headers = {} if size is None else {"inference-header-content-length": str(size)}
        found.append(http_message(f"/v2/models/{name}/infer", body, headers))
    return found
