"""torch, torchrec and fbgemm-gpu only work as one matched triple; a wrong one is one clear line at start-up."""

from importlib.metadata import PackageNotFoundError, version

from data.errors import InputError

TRIPLES = (("2.13", "1.8", "1.8"), ("2.11", "1.6", "1.6"))
FBGEMM_NAMES = ("fbgemm-gpu", "fbgemm-gpu-cpu", "fbgemm_gpu_cpu", "fbgemm-gpu-nightly")


def installed() -> dict[str, str | None]:
    """Version of torch, torchrec and fbgemm-gpu (either build), None where absent."""
    fbgemm = next((v for v in map(_version, FBGEMM_NAMES) if v), None)
    return {"torch": _version("torch"), "torchrec": _version("torchrec"), "fbgemm-gpu": fbgemm}


def check_versions(found: dict[str, str | None] | None = None) -> None:
    """Raise InputError naming the right triple unless torch, torchrec and fbgemm-gpu match."""
    found = installed() if found is None else found
    have = tuple(".".join((v or "").split("+")[0].split(".")[:2]) for v in found.values())
    if have in TRIPLES:
        return
    shown = ", ".join(f"{name} {v or 'absent'}" for name, v in found.items())
    by_torch = next((t for t in TRIPLES if t[0] == have[0]), TRIPLES[0])
    raise InputError(
        f"these versions do not work together: {shown}; with torch {by_torch[0]} install "
        f"torchrec {by_torch[1]} and fbgemm-gpu {by_torch[2]} (on a machine without a GPU fbgemm-gpu-cpu)"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
