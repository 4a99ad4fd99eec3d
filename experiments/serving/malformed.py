"""Malformed requests, made from good ones: whole HTTP messages and gRPC messages, each with what may come of it.

A mutation either breaks the request for certain (`certain`: it must be refused), or damages bytes somewhere and may, by
chance, leave a good one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from experiments.serving.load import http_message
from ranker.exporting.recorded import tensors_of
from ranker.serving.signature import Signature

pb: Any = service_pb2  # its messages are made when it is imported

WILD = [None, True, -1, 0, 1.5, 2**63, -(2**63) - 1, 2**200, "", "x", "\0", "ü" * 5000, [], [[]], {}, {"a": 1}, "NaN"]
HUGE = 5 << 20  # bytes


@dataclass(frozen=True)
class Case:
    """One message. kind: of mutation. http: else gRPC. certain: must be refused. raw: may be no HTTP at all."""

    kind: str
    message: bytes
    certain: bool
    http: bool = True
    raw: bool = False


class Malformed:
    """Makes cases at random from recorded requests (rows of examples/requests.parquet)."""

    def __init__(self, name: str, own: Signature, rows: list[dict], seed: int) -> None:
        self.path, self.name, self.own = f"/v2/models/{name}/infer", name, own
        self.rng = np.random.default_rng(seed)
        self.good = [tensors_of(own, row) for row in rows]
        self._makers: list[Callable[[], Case]] = [
            *[self._of_a_tensor] * 4,
            *[self._of_the_request] * 3,
            *[self._of_the_meaning] * 3,
            *[self._of_bytes] * 3,
            self._of_the_envelope,
            self._of_http,
            *[self._of_grpc] * 3,
        ]

    def case(self) -> Case:
        """The next one."""
        return self._pick(self._makers)()

    def _pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def _request(self) -> dict[str, Any]:
        """A good request as JSON has it."""
        inputs = []
        for name, values in self._pick(self.good).items():
            data = [None if v != v else v for v in values.tolist()]
            inputs.append({"name": name, "shape": [len(data)], "datatype": self.own.input(name).datatype, "data": data})
        return {"inputs": inputs}

    def _json(self, kind: str, request: Any, certain: bool = True) -> Case:
        return Case(kind, http_message(self.path, json.dumps(request).encode()), certain)

    def _of_a_tensor(self) -> Case:
        """One field of one tensor is something else."""
        request = self._request()
        tensor = self._pick(request["inputs"])
        field = self._pick(["name", "shape", "datatype", "data", "parameters"])
        wild = self._pick(WILD)
        if field == "shape":
            wild = self._pick([wild, [wild], [len(tensor["data"]) + 1], [1, len(tensor["data"])], [-1], [2**62]])
        if field == "data":
            wild = self._pick([wild, [*tensor["data"], 1], [[]] * len(tensor["data"]), [{}], ["\0"], [10**400]])
        before = tensor.get(field)
        tensor[field] = wild
        harmless = (field == "parameters" and isinstance(wild, dict)) or wild == before
        empty = field == "data" and wild == [] and tensor["shape"] == [0]
        return self._json(f"tensor {field}", request, not harmless and not empty)

    def _of_the_request(self) -> Case:
        """The list of tensors, or a field beside it, is wrong."""
        request = self._request()
        inputs = request["inputs"]
        kind = self._pick(["drop", "twice", "stranger", "field", "id", "outputs", "parameters", "inputs", "order"])
        place = int(self.rng.integers(len(inputs)))
        if kind == "drop":
            inputs.pop(place)
        elif kind == "twice":
            inputs.append(inputs[place])
        elif kind == "stranger":
            inputs.append({"name": "stranger", "shape": [1], "datatype": "INT64", "data": [1]})
        elif kind == "field":
            request[self._pick(["input", "timeout", "", "ids"])] = self._pick(WILD)
        elif kind == "id":
            request["id"] = self._pick([5, None, [], "x" * 300])
        elif kind == "outputs":
            request["outputs"] = self._pick([None, {}, [{}], [{"name": 1}], [{"name": "logit"}], ["score"]])
        elif kind == "parameters":
            request["parameters"] = self._pick([None, 1, [], "x"])
        elif kind == "inputs":
            request["inputs"] = self._pick([v for v in WILD if v != ""] + [[5], [None], [{"name": "item"}]])
        else:
            request = self._pick([[request], [], None, 5, "x", {"inputs": [request]}])
        return self._json(f"request {kind}", request)

    def _of_the_meaning(self) -> Case:
        """Every tensor is well-formed, but together they say something that cannot be."""
        request = self._request()
        tensors = {tensor["name"]: tensor for tensor in request["inputs"]}
        kind = self._pick(["no item", "two users", "future", "order", "lengths", "action", "crowd", "spread", "ts"])

        def put(name: str, data: list) -> None:
            if name in tensors:
                tensors[name] |= {"data": data, "shape": [len(data)]}

        history = [name for name in tensors if name.startswith("history.")]
        certain = bool(history) or kind in ("no item", "two users", "crowd", "ts")
        if kind == "no item":
            put("item", [])
        elif kind == "two users":
            put("user", tensors["user"]["data"] * 2)
        elif kind == "crowd":
            put("item", tensors["item"]["data"] * 6000)
        elif kind == "ts":
            put("ts", [self._pick([2**62, -(2**62), 2**63 - 1])])
        elif kind == "spread":
            put("item", tensors["item"]["data"] * 3)
            spread = [n for n in self.own.context if n in tensors]
            put(spread[0] if spread else "item", [1.0, 2.0] if spread else [])
        elif kind == "lengths":
            put("history.ts", [*tensors.get("history.ts", {"data": []})["data"], 1])
        else:
            moment = tensors["ts"]["data"][0]
            for name in history:
                filler = tensors[name]["data"][:1] or [{"BYTES": self.own.actions[0]}.get(tensors[name]["datatype"], 1)]
                put(name, filler * 2)
            put("history.ts", {"future": [5, moment], "order": [7, 6], "action": [5, 6]}[kind])
            if kind == "action":
                put("history.action", ["no such action", "\u2028"])
                certain = "history.action" in tensors
        return self._json(f"meaning {kind}", request, certain)

    def _of_bytes(self) -> Case:
        """Bytes of the body are changed, cut, repeated or put in; the length is right."""
        return Case("bytes", http_message(self.path, self._damaged(json.dumps(self._request()).encode())), False)

    def _damaged(self, body: bytes) -> bytes:
        found = bytearray(body)
        for _ in range(int(self.rng.integers(1, 6))):
            at, length = int(self.rng.integers(len(found) + 1)), int(self.rng.integers(1, 40))
            kind = self._pick(["flip", "cut", "repeat", "noise", "end"])
            if kind == "flip" and at < len(found):
                found[at] ^= 1 << int(self.rng.integers(8))
            elif kind == "cut":
                del found[at : at + length]
            elif kind == "repeat":
                found[at:at] = found[at : at + length]
            elif kind == "noise":
                found[at:at] = self.rng.bytes(length)
            elif kind == "end":
                del found[at:]
        return bytes(found)

    def _of_the_envelope(self) -> Case:
        """A good body at a wrong path, with a wrong method or header, or far too long."""
        body = json.dumps(self._request()).encode()
        kind = self._pick(["path", "method", "header length", "binary size", "encoding", "nested", "huge"])
        if kind == "path":
            elsewhere = [
                "/",
                "/v2/models//infer",
                "/v2/models/x/infer",
                "/v2/../etc/passwd",
                "/%00%ff",
                "/v2/x?" + "y" * 5000,
            ]
            path = self._pick([*elsewhere, self.path + "/x", f"/v2/models/{self.name}/versions/99/infer"])
            return Case("path", http_message(path, body), True)
        if kind == "method":
            return Case("method", http_message(self.path, body, method=self._pick(["GET", "PUT", "DELETE", "X"])), True)
        if kind == "header length":
            length = self._pick(["-1", "x", "", str(len(body) + 1), "9" * 50, "0", "1"])
            return Case(kind, http_message(self.path, body, {"inference-header-content-length": length}), True)
        if kind == "binary size":
            request = self._request()
            tensor = self._pick(request["inputs"])
            del tensor["data"]
            size = self._pick([-1, 0.5, "8", None, 2**63, 8 * tensor["shape"][0] + 8, 3])
            tensor["parameters"] = {"binary_data_size": size}
            head = json.dumps(request).encode()
            tail = self.rng.bytes(int(self.rng.integers(0, 30)) * 2 + 1)
            return Case(
                kind, http_message(self.path, head + tail, {"inference-header-content-length": str(len(head))}), True
            )
        if kind == "encoding":
            return Case(
                kind, http_message(self.path, body, {"content-encoding": self._pick(["gzip", "x", "deflate"])}), True
            )
        if kind == "nested":
            return Case(kind, http_message(self.path, b'{"inputs":' + b"[" * 100_000), True)
        if self.rng.random() < 0.97:  # the huge ones take their time
            return self._of_bytes()
        return Case(kind, http_message(self.path, b" " * HUGE), True)

    def _of_http(self) -> Case:
        """What is no HTTP, or stops halfway."""
        good = http_message(self.path, json.dumps(self._request()).encode())
        kind = self._pick(["noise", "line", "header", "length", "chunks", "halfway"])
        message = {
            "noise": self.rng.bytes(int(self.rng.integers(1, 300))) + b"\r\n\r\n",
            "line": good.replace(b"HTTP/1.1", self._pick([b"HTTP/9.9", b"", b"HTP/1.1", b"\xff"]), 1),
            "header": good.replace(
                b"host: localhost", self._pick([b"host", b": x", b"a b: c", b"x: " + b"y" * 99_999]), 1
            ),
            "length": good.replace(b"content-length: ", self._pick([b"content-length: -", b"content-length: x"]), 1),
            "chunks": f"POST {self.path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nno".encode(),
            "halfway": good[: int(self.rng.integers(1, len(good)))],
        }[kind]
        return Case(f"http {kind}", message, True, raw=True)

    def _of_grpc(self) -> Case:
        """A ModelInferRequest that is wrong, or damaged on the wire."""
        tensors = self._pick(self.good)
        request = pb.ModelInferRequest(model_name=self.name)
        for name, values in tensors.items():
            datatype = self.own.input(name).datatype
            request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
            raw = (
                [len(v.encode()).to_bytes(4, "little") + v.encode() for v in values.tolist()]
                if datatype == "BYTES"
                else []
            )
            request.raw_input_contents.append(b"".join(raw) if datatype == "BYTES" else values.tobytes())
        kind = self._pick(
            ["wire", "name", "version", "raw", "fewer", "shape", "datatype", "drop", "contents", "output"]
        )
        if kind == "wire":
            return Case("grpc wire", self._damaged(request.SerializeToString()), False, http=False)
        place = int(self.rng.integers(len(request.inputs)))
        tensor = request.inputs[place]
        if kind == "name":
            request.model_name = self._pick(["", "x", "\u2028"])
        elif kind == "version":
            request.model_version = self._pick(["0", "99", "x"])
        elif kind == "raw":
            request.raw_input_contents[place] += self._pick([b"\0", b"\xff\xff\xff\xff", b"\1\0\0\0\xff"])
        elif kind == "fewer":
            request.raw_input_contents.pop()
        elif kind == "shape":
            tensor.shape[:] = self._pick([[], [-1], [1, 1], [2**62], [len(tensors[tensor.name]) + 1]])
        elif kind == "datatype":
            tensor.datatype = self._pick(
                ["", "x", "FP16", "INT128", "BYTES" if tensor.datatype != "BYTES" else "INT64"]
            )
        elif kind == "drop":
            request.inputs.pop(place)
            request.raw_input_contents.pop(place)
        elif kind == "contents":
            del request.raw_input_contents[:]
            tensor.contents.int_contents.extend([1, 2, 3])
        else:
            request.outputs.add(name="logit")
        return Case(f"grpc {kind}", request.SerializeToString(), True, http=False)
