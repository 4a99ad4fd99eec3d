"""The model that Triton's Python backend runs: a package served by ranker.serving.model inside Triton.

Parameters of config.pbtxt: `store.NAME` is the folder of a store to follow for the vectors NAME.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import InputError
from data.host import keep_freed_memory
from ranker.serving.inference import OUTPUT
from ranker.serving.model import Model
from ranker.serving.requests import Requests, request_of

STORE = "store."
POLL = 1.0  # seconds between looks at the stores


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend: Triton calls these methods, in one process each
    instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the package beside model.py. Raises InputError if it is damaged or not for this machine."""
        keep_freed_memory()
        torch.set_num_threads(1)
        (folder,) = (Path(args["model_repository"]) / args["model_version"]).glob("v*")
        gpu = args["model_instance_kind"] == "GPU"
        self.model = Model(folder, "aoti", torch.device("cuda", int(args["model_instance_device_id"])) if gpu else None)
        given = json.loads(args["model_config"]).get("parameters", {})
        stores = {name: given[name]["string_value"] for name in given if name.startswith(STORE)}
        self.model.follow({name.removeprefix(STORE): Path(root) for name, root in stores.items()})
        self._looked = time.monotonic()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order; requests that came together are scored together."""
        import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

        if time.monotonic() - self._looked > POLL:
            self._looked = time.monotonic()
            self.model.refresh_vectors()
        responses: list[Any] = [None] * len(requests)
        good: dict[int, Requests] = {}
        for place, request in enumerate(requests):
            try:
                good[place] = request_of(self.model.package.signature, _tensors(request))
            except InputError as error:
                responses[place] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        for place, score in self._scores(good).items():
            found = pb_utils.TritonError(str(score)) if isinstance(score, InputError) else None
            tensors = [] if found else [pb_utils.Tensor(OUTPUT, score)]
            responses[place] = pb_utils.InferenceResponse(output_tensors=tensors, error=found)
        return responses

    def _scores(self, requests: dict[int, Requests]) -> dict[int, np.ndarray | InputError]:
        """Scores (C,) float32 of each; if some cannot be scored, each is scored alone."""
        if not requests:
            return {}
        try:
            found = self.model.score(Requests.joined(list(requests.values()))).probability.astype(np.float32)
        except InputError as error:
            if len(requests) == 1:
                return dict.fromkeys(requests, error)
            return {place: self._scores({place: request})[place] for place, request in requests.items()}
        ends = np.cumsum([len(request.item) for request in requests.values()])
        return dict(zip(requests, np.split(found, ends[:-1]), strict=True))


def _tensors(request: Any) -> dict[str, np.ndarray]:
    found = {}
    for tensor in request.inputs():
        values = tensor.as_numpy()
        if values.ndim != 1:
            raise InputError(f"input {tensor.name()!r}: shape {list(values.shape)} must be [n], one dimension")
        if values.dtype == object:
            try:
                values = np.array([value.decode() for value in values], dtype=np.str_)
            except UnicodeDecodeError:
                raise InputError(f"input {tensor.name()!r}: a text is not UTF-8") from None
        found[tensor.name()] = values
    return found
