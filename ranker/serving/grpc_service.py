"""gRPC of the Open Inference Protocol; the messages are those that Triton's client publishes."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from data.errors import InputError
from ranker.serving.batcher import Busy
from ranker.serving.inference import LONGEST_ID, OUTPUT, Inference, NotFound, metadata, parameters
from ranker.serving.model import Model
from ranker.serving.tensors import from_bytes, from_values, size_of

pb: Any = service_pb2  # its messages are made when it is imported
SERVICE = "inference.GRPCInferenceService"
CONTENTS = {"BOOL": "bool_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
            "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
            "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
            "UINT64": "uint64_contents"}  # fmt: skip


class Service:
    """The calls of the protocol: message in, message out. What goes wrong is raised."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference

    async def ServerLive(self, request: Any) -> Any:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:
        """Whether it takes requests."""
        return pb.ServerReadyResponse(ready=self.inference.ready)

    async def ModelReady(self, request: Any) -> Any:
        """Whether a model takes requests."""
        self.inference.model(request.name, request.version)
        return pb.ModelReadyResponse(ready=self.inference.ready)

    async def ServerMetadata(self, request: Any) -> Any:
        """Name and version of the server."""
        return pb.ServerMetadataResponse(name="moon", version=version("moon-ranker"))

    async def ModelMetadata(self, request: Any) -> Any:
        """Inputs and outputs of a model."""
        return pb.ModelMetadataResponse(**metadata(self.inference.model(request.name, request.version)))

    async def ModelInfer(self, request: Any) -> Any:
        """The scores of one request."""
        model: Model = self.inference.model(request.model_name, request.model_version)
        self.inference.batcher.admit()
        if len(request.id) > LONGEST_ID:
            raise InputError(f"id: must be a text of at most {LONGEST_ID} characters")
        answer = await self.inference.score("grpc", model, _tensors(request), [o.name for o in request.outputs])
        found = pb.ModelInferResponse(model_name=model.package.name, model_version=answer.version, id=request.id)
        for name, value in parameters(answer).items():
            kind = "bool_param" if isinstance(value, bool) else "int64_param"
            setattr(found.parameters[name], kind, value)
        found.outputs.add(name=OUTPUT, datatype="FP32", shape=[len(answer.score)])
        found.raw_output_contents.append(answer.score.tobytes())
        return found


CALLS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


def handlers(inference: Inference) -> grpc.GenericRpcHandler:
    """What a gRPC server needs to know of the service; a call that is not in CALLS is UNIMPLEMENTED."""
    service = Service(inference)
    found = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(inference, getattr(service, name)),  # pyright: ignore[reportArgumentType]
            request_deserializer=_reader(getattr(pb, name + "Request")),
            response_serializer=getattr(pb, name + "Response").SerializeToString,
        )
        for name in CALLS
    }
    return grpc.method_handlers_generic_handler(SERVICE, found)


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Bytes -> message, or the error: one that is raised here would reach the client as the server's fault."""

    def read(raw: bytes) -> Any:
        try:
            return kind.FromString(raw)
        except DecodeError:
            return InputError(f"the message is no {kind.DESCRIPTOR.name}")

    return read


def _guarded(inference: Inference, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def handler(request: Any, context: Any) -> Any:
        try:
            if isinstance(request, InputError):
                raise request
            return await call(request)
        except Exception as error:
            if isinstance(error, Busy):
                context.set_trailing_metadata((("retry-after", str(error.retry_after)),))
            await context.abort(_code(error), inference.failed("grpc", error))

    return handler


def _code(error: Exception) -> grpc.StatusCode:
    if isinstance(error, Busy):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, NotFound):
        return grpc.StatusCode.NOT_FOUND
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, InputError) else grpc.StatusCode.INTERNAL


def _tensors(request: Any) -> dict[str, np.ndarray]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    found: dict[str, np.ndarray] = {}
    for place, tensor in enumerate(request.inputs):
        name = tensor.name[:100]
        size = size_of(name, list(tensor.shape))
        if name in found:
            raise InputError(f"input {name!r}: given twice")
        if raw:
            found[name] = from_bytes(name, tensor.datatype, size, raw[place])
        else:
            found[name] = from_values(name, tensor.datatype, size, _values(name, tensor))
    return found


def _values(name: str, tensor: Any) -> list[Any]:
    values = list(getattr(tensor.contents, CONTENTS.get(tensor.datatype, "int_contents")))
    if tensor.datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InputError(f"input {name!r}: a text is not UTF-8") from None
