"""Tensors of the Open Inference Protocol: from JSON values, raw bytes or gRPC contents to arrays, strictly."""

import struct
from typing import Any

import numpy as np

from data.errors import InputError

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{name}{bits}": np.dtype(f"{name.lower()}{bits}") for name in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
LONGEST_TEXT = 256  # characters
LONGEST_TENSOR = 100_000  # values


def size_of(name: str, shape: Any) -> int:
    """Values of a one-dimensional tensor. Raises InputError for any other shape, or too many values."""
    good = isinstance(shape, list | tuple) and len(shape) == 1 and type(shape[0]) is int and shape[0] >= 0
    if not good:
        raise InputError(f"input {name!r}: shape {str(shape)[:40]} must be [n], one dimension")
    if shape[0] > LONGEST_TENSOR:
        raise InputError(f"input {name!r}: {shape[0]} values; at most {LONGEST_TENSOR} are allowed")
    return shape[0]


def from_values(name: str, datatype: Any, size: int, data: Any) -> np.ndarray:
    """A tensor from JSON values; null is NaN where the datatype has it.

    Raises InputError for an unknown datatype, a value of another kind or out of range, or another number of values.
    """
    if not isinstance(data, list):
        raise InputError(f"input {name!r}: 'data' must be a flat list")
    if len(data) != size:
        raise InputError(f"input {name!r}: {len(data)} values, shape says {size}")
    kinds = set(map(type, data))
    if datatype == "BYTES":
        _require(name, datatype, kinds <= {str})
        return _texts(name, data)
    dtype = _dtype(name, datatype)
    if dtype.kind == "b":
        _require(name, datatype, kinds <= {bool})
        return np.array(data, dtype)
    if dtype.kind == "f":
        _require(name, datatype, kinds <= {int, float, type(None)})
        found = np.array(data, np.float64)  # integers of JSON have at most 64 bits here
        if (np.abs(found) > np.finfo(dtype).max).any():
            raise InputError(f"input {name!r}: a value does not fit {datatype}")
        return found.astype(dtype)
    _require(name, datatype, kinds <= {int})
    limits = np.iinfo(dtype)
    if data and not (limits.min <= min(data) and max(data) <= limits.max):
        raise InputError(f"input {name!r}: a value does not fit {datatype}")
    return np.array(data, dtype)


def from_bytes(name: str, datatype: Any, size: int, raw: bytes | memoryview) -> np.ndarray:
    """A tensor from little-endian bytes; BYTES are texts, each behind its length in four bytes.

    Raises InputError if the bytes are not exactly those of `size` values.
    """
    if datatype == "BYTES":
        return _texts(name, _split(name, size, bytes(raw)))
    dtype = _dtype(name, datatype)
    if len(raw) != size * dtype.itemsize:
        raise InputError(f"input {name!r}: {len(raw)} bytes, {size} values of {datatype} are {size * dtype.itemsize}")
    if dtype.kind == "b" and len(raw) and max(raw) > 1:
        raise InputError(f"input {name!r}: a BOOL is the byte 0 or 1")
    return np.frombuffer(raw, dtype)


def _dtype(name: str, datatype: Any) -> np.dtype:
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InputError(
            f"input {name!r}: datatype {str(datatype)[:20]!r} is unknown; one of {', '.join(DTYPES)}, BYTES"
        )
    return DTYPES[datatype]


def _require(name: str, datatype: str, good: bool) -> None:
    if not good:
        raise InputError(f"input {name!r}: 'data' holds values that are no {datatype}")


def _split(name: str, size: int, raw: bytes) -> list[str]:
    texts, at = [], 0
    while at < len(raw) and len(texts) < size:
        if at + 4 > len(raw):
            raise InputError(f"input {name!r}: the bytes end within a length")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise InputError(f"input {name!r}: a text of {length} bytes ends after the last byte")
        texts.append(_decoded(name, raw[at : at + length]))
        at += length
    if len(texts) != size or at < len(raw):
        raise InputError(f"input {name!r}: {len(texts)} texts in {at} of {len(raw)} bytes, shape says {size}")
    return texts


def _decoded(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InputError(f"input {name!r}: a text is not UTF-8") from None


def _texts(name: str, values: list[str]) -> np.ndarray:
    if any(len(value) > LONGEST_TEXT for value in values):
        raise InputError(f"input {name!r}: a text is longer than {LONGEST_TEXT} characters")
    if any("\0" in value for value in values):
        raise InputError(f"input {name!r}: a text holds a zero character")
    return np.array(values, dtype=np.str_)
