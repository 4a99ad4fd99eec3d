"""HTTP of the Open Inference Protocol (KServe v2), with the extension for binary tensors.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and Triton's
protocol/extension_binary_data.md.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version as package_version
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from data.errors import InputError
from ranker.serving.batcher import Answer, Busy
from ranker.serving.inference import LONGEST_ID, OUTPUT, Inference, NotFound, metadata, parameters
from ranker.serving.tensors import from_bytes, from_values, size_of

HEADER = "inference-header-content-length"
KNOWN = {"id", "parameters", "inputs", "outputs"}
DRAINED = 8  # times the allowed body that is read and dropped before the connection is cut
SLOWEST_BODY = 30.0  # seconds


class TooLarge(InputError):
    """The body is longer than allowed."""


class TooSlow(InputError):
    """The body did not arrive in time."""


def application(inference: Inference) -> ASGIApp:
    """The ASGI application."""

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _json({"ready": inference.ready}, 200 if inference.ready else 503)

    async def server(_: Request) -> Response:
        extensions = ["binary_tensor_data"]
        return _json({"name": "moon", "version": package_version("moon-ranker"), "extensions": extensions})

    async def describe(request: Request) -> Response:
        return _json(metadata(_model(request)))

    async def model_ready(request: Request) -> Response:
        return _json({"name": _model(request).package.name, "ready": inference.ready}, 200 if inference.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(inference.measures.text(), media_type="text/plain; version=0.0.4")

    async def infer(request: Request) -> Response:
        model = _model(request)
        body = await _body(request, inference.limits.body)
        head, tensors, wanted, binary = _parsed(request, body)
        answer = await inference.score("http", model, tensors, wanted)
        return _answered(head, model.package.name, answer, binary)

    def _model(request: Request) -> Any:
        return inference.model(request.path_params["name"], request.path_params.get("version"))

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def wrapped(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return _refused(inference, error)

        return wrapped

    one = "/v2/models/{name}"
    paths = {"": describe, "/ready": model_ready, "/infer": infer}
    routes = [Route("/v2", server), Route("/v2/health/live", live), Route("/v2/health/ready", ready)]
    routes.append(Route("/metrics", metrics))
    for path, handler in paths.items():
        for prefix in (one, one + "/versions/{version}"):
            method = "POST" if path == "/infer" else "GET"
            routes.append(Route(prefix + path, guarded(handler), methods=[method]))

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json({"error": f"{request.method} {request.url.path[:80]}: {error.detail}"}, error.status_code)

    inner = Starlette(routes=routes, exception_handlers={HTTPException: unknown})

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/infer"):
            try:
                inference.batcher.admit()  # before anything is read or looked up: refusing must cost little
            except Busy as error:
                await _refused(inference, error)(scope, receive, send)
                return
        await inner(scope, receive, send)

    return outer


def _refused(inference: Inference, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    reason = {"error": inference.failed("http", error)}
    if isinstance(error, Busy):
        return _json(reason, 429, {"retry-after": str(error.retry_after)})
    if isinstance(error, NotFound):
        return _json(reason, 404)
    if isinstance(error, TooLarge | TooSlow):
        return _json(reason, 413 if isinstance(error, TooLarge) else 408, {"connection": "close"})
    return _json(reason, 400 if isinstance(error, InputError) else 500)


async def _body(request: Request, most: int) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InputError("content-encoding: must be identity; compressed bodies are not read")
    found, size = bytearray(), 0
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    found += chunk
                elif size > DRAINED * most:
                    break
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {SLOWEST_BODY:.0f} s") from None
    if size > most:  # read to its end (within reason): a client that still writes would not see the answer
        raise TooLarge(f"the body has more than {most} bytes, which is the most that is allowed")
    return bytes(found)


def _parsed(request: Request, body: bytes) -> tuple[dict[str, Any], dict[str, Any], list[str], bool]:
    """(header, tensors by name, names of the wanted outputs, whether they are wanted as bytes)."""
    text = request.headers.get(HEADER)
    if text is not None and not (text.isdigit() and int(text) <= len(body)):
        raise InputError(f"{HEADER}: {text[:20]!r} is no length within the body of {len(body)} bytes")
    end = len(body) if text is None else int(text)
    try:
        head = orjson.loads(memoryview(body)[:end])
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not valid JSON: {str(error)[:100]}") from None
    if not isinstance(head, dict):
        raise InputError("the body must be a JSON object")
    if extra := head.keys() - KNOWN:
        raise InputError(f"unknown field {min(extra)[:60]!r}; fields: {', '.join(sorted(KNOWN))}")
    _object(head.get("parameters", {}), "parameters")
    if not isinstance(head.get("id", ""), str) or len(head.get("id", "")) > LONGEST_ID:
        raise InputError(f"id: must be a text of at most {LONGEST_ID} characters")
    tensors = _tensors(head.get("inputs"), memoryview(body)[end:])
    outputs = head.get("outputs", [])
    named = isinstance(outputs, list) and all(isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs)
    if not named:
        raise InputError("outputs: must be a list of objects with a name")
    binary = head.get("parameters", {}).get("binary_data_output", False) is True
    for output in outputs:
        settings = _object(output.get("parameters", {}), "outputs.parameters")
        if extra := settings.keys() - {"binary_data"}:
            raise InputError(
                f"output {output['name'][:60]!r}: parameter {min(extra)[:60]!r} is not known: binary_data is"
            )
        binary = settings.get("binary_data", binary) is True
    return head, tensors, [o["name"] for o in outputs], binary


def _tensors(inputs: Any, raw: memoryview) -> dict[str, Any]:
    if not isinstance(inputs, list) or not inputs:
        raise InputError("inputs: must be a list of tensors, at least one")
    found: dict[str, Any] = {}
    at = 0
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError(
                "inputs: every tensor is an object with name, datatype, shape, and data or binary_data_size"
            )
        name = entry["name"][:100]
        if name in found:
            raise InputError(f"input {name!r}: given twice")
        size = size_of(name, entry.get("shape"))
        length = _object(entry.get("parameters", {}), f"input {name!r}: parameters").get("binary_data_size")
        if length is None:
            found[name] = from_values(name, entry.get("datatype"), size, entry.get("data"))
            continue
        if type(length) is not int or not 0 <= length <= len(raw) - at or "data" in entry:
            raise InputError(
                f"input {name!r}: binary_data_size {str(length)[:20]} must be bytes that are there (no data)"
            )
        found[name] = from_bytes(name, entry.get("datatype"), size, raw[at : at + length])
        at += length
    if at != len(raw):
        raise InputError(f"{len(raw) - at} bytes behind the tensors belong to none")
    return found


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be an object")
    return value


def _answered(head: dict[str, Any], name: str, answer: Answer, binary: bool) -> Response:
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": [len(answer.score)]}
    raw = answer.score.tobytes() if binary else b""
    output |= {"parameters": {"binary_data_size": len(raw)}} if binary else {"data": answer.score}
    found = {"model_name": name, "model_version": answer.version, "parameters": parameters(answer), "outputs": [output]}
    if "id" in head:
        found["id"] = head["id"]
    text = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(text, media_type="application/json")
    return Response(text + raw, media_type="application/octet-stream", headers={HEADER: str(len(text))})


def _json(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
