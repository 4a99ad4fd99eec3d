"""The section of a study, by its name."""

from typing import Any

from data.errors import InputError
from experiments.page import Section
from experiments.report.exchange import exchange_section
from experiments.report.iterations import iterations_section
from experiments.report.scaling import scaling_section

SECTIONS = {"exchange-rate": exchange_section, "scaling": scaling_section, "iterations": iterations_section}


def study_section(found: dict[str, Any], mark: str = "") -> Section:
    """The section of findings.json.

    Raises InputError for a study of another program version.
    """
    if found["study"] not in SECTIONS:
        raise InputError(f"no study {found['study']!r} is known (there are: {', '.join(SECTIONS)})")
    return SECTIONS[found["study"]](found["findings"], mark)
