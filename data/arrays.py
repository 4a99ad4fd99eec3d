"""Opening .npy files as memory maps, safely in threads.

numpy's own reader parses the header with `ast`, which CPython 3.11 does not bear in several threads at once
(SystemError: AST constructor recursion depth mismatch). Loaders and servers open arrays in threads, so the header is
read here by a pattern. Layout: numpy.lib.format, versions 1.0 to 3.0.
"""

import math
import re
from pathlib import Path

import numpy as np

from data.errors import InputError

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']+)', 'fortran_order': (?P<fortran>False|True), 'shape': \((?P<shape>[\d, ]*)\),? *\}\s*"
)


def open_array(path: Path | str) -> np.ndarray:
    """The array of a plain (not structured, not pickled) .npy file, read-only and mapped: nothing is read yet.

    Raises FileNotFoundError, and InputError naming the file if it is no .npy file of that kind or is cut off.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        width = 2 if start[6:7] == b"\x01" else 4
        size = int.from_bytes(file.read(width), "little")
        header = file.read(size)
        if len(start) < 8 or start[:6] != _MAGIC or start[6] not in (1, 2, 3) or len(header) < size:
            raise InputError(f"{path}: not a whole .npy file (truncated?)")
        found = _HEADER.fullmatch(header.decode("utf-8" if start[6] == 3 else "latin1"))
        if not found or "O" in found["descr"]:
            raise InputError(f"{path}: not a plain array: {header[:80]!r}")
        shape = tuple(int(n) for n in found["shape"].replace(" ", "").split(",") if n)
        dtype, order = np.dtype(found["descr"]), "F" if found["fortran"] == "True" else "C"
        if not math.prod(shape):  # no bytes cannot be mapped
            empty = np.empty(shape, dtype, order)
            empty.flags.writeable = False
            return empty
        try:
            return np.memmap(file, dtype, mode="r", offset=file.tell(), shape=shape, order=order)
        except ValueError:
            raise InputError(f"{path}: not a whole .npy file (truncated?)") from None
