"""The section of a study, by its name."""

from dataclasses import replace
from typing import Any

from data.errors import InputError
from experiments.page import Section, Table
from experiments.report.exchange import exchange_section
from experiments.report.iterations import iterations_section
from experiments.report.scaling import scaling_section

SECTIONS = {"exchange-rate": exchange_section, "scaling": scaling_section, "iterations": iterations_section}


def study_section(found: dict[str, Any]) -> Section:
    """The section of findings.json, which bears the study's name.

    Raises InputError for a study of another program version.
    """
    if found["study"] not in SECTIONS:
        raise InputError(f"no study {found['study']!r} is known (there are: {', '.join(SECTIONS)})")
    section = SECTIONS[found["study"]](found["findings"])
    section = replace(section, title=f"{section.title}: {found['settings']['name']}")
    return with_failed(section, found["findings"].get("failed", []))


def with_failed(section: Section, failed: list[str]) -> Section:
    """The section with a table of the cells that failed (`CELL: why`), if any did."""
    if not failed:
        return section
    table = Table("Failed", "Not part of anything above.", ["cell", "why"], [line.split(": ", 1) for line in failed])
    said = f"{len(failed)} cells failed and are left out."
    return replace(section, parts=(*section.parts, table), said=(*section.said, said))
