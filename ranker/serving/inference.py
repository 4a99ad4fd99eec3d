"""What both protocols do: find the model, check a request, score it, describe the model."""

import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import InputError
from ranker.serving.batcher import Answer, Batcher, Busy
from ranker.serving.log import log
from ranker.serving.measures import Measures
from ranker.serving.model import Model
from ranker.serving.requests import request_of
from ranker.serving.served import Served

OUTPUT = "score"
PLATFORM = "moon_ranker"
LONGEST_ID = 256  # characters of a request's id


class NotFound(Exception):
    """There is no such model, or the version is not served."""


@dataclass(frozen=True)
class Limits:
    """What a request may be at most. body: bytes. candidates, behaviours: counts."""

    body: int
    candidates: int
    behaviours: int


class Inference:
    """One served model behind any protocol."""

    def __init__(self, served: Served, batcher: Batcher, measures: Measures, limits: Limits) -> None:
        self.served, self.batcher, self.measures, self.limits = served, batcher, measures, limits
        self.ready = True

    def model(self, name: str, version: str | None = None) -> Model:
        """The served model, if that is its name and version (None or '': any). Raises NotFound."""
        model = self.served.model
        if name != model.package.name:
            raise NotFound(f"no model {name[:60]!r}; served is {model.package.name!r}")
        if version and version != model.version:
            raise NotFound(f"version {version[:20]!r} of {name!r} is not served; version {model.version} is")
        return model

    async def score(self, protocol: str, model: Model, tensors: dict[str, np.ndarray], wanted: list[str]) -> Answer:
        """The answer to one request. `wanted`: names of outputs, none for all.

        Raises InputError for a wrong one, Busy if there is too much work.
        """
        started = time.monotonic()
        for name in wanted:
            if name != OUTPUT:
                raise InputError(f"output {name[:60]!r}: the model has no such output; its output: {OUTPUT}")
        limits = self.limits
        for name, most in (("item", limits.candidates), ("history.item", limits.behaviours)):
            if len(tensors.get(name, ())) > most:
                raise InputError(f"input {name!r}: {len(tensors[name])} values; at most {most} are allowed")
        request = request_of(model.package.signature, tensors)
        answer = await self.batcher.score(model, request)
        self.measures.answered(protocol, time.monotonic() - started, answer)
        return answer

    def failed(self, protocol: str, error: Exception) -> str:
        """Count (and, if it is ours, log) a request that got no scores; returns its one-line reason."""
        status = "busy" if isinstance(error, Busy) else "failed"
        status = "invalid" if isinstance(error, InputError | NotFound) else status
        self.measures.refused(protocol, status)
        reason = " ".join(str(error).split())
        if status == "failed":
            lines = traceback.format_exception(error)
            log("request_failed", protocol=protocol, error=f"{type(error).__name__}: {reason}", traceback=lines)
            return "the server failed on this request; its log says why"
        return reason


def parameters(answer: Answer) -> dict[str, Any]:
    """What an answer says beside the scores."""
    return {
        **{f"vectors_{name}": version for name, version in answer.vectors.items()},
        "unknown_user": answer.unknown_user,
        "unknown_items": answer.unknown_items,
        **{f"missing_{name}": count for name, count in answer.missing.items()},
    }


def metadata(model: Model) -> dict[str, Any]:
    """The model's metadata as the protocol has it."""
    inputs = [
        {"name": i.name, "datatype": i.datatype, "shape": [1 if i.shape == "one" else -1]}
        for i in model.package.signature.inputs
    ]
    outputs = [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}]
    return {
        "name": model.package.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }
