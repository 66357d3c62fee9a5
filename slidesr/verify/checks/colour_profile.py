"""Checks the ICC profile of a file: it is usable, and for the kind of pixels in the file."""

from __future__ import annotations

from slidesr.imaging.icc import ProfileError, pixel_space, profile_name, to_srgb
from slidesr.verify.findings import Finding, Verdict
from slidesr.verify.readers.reader import Reader


def profile_fits(reader: Reader) -> Finding:
    """Parses the profile that a reader finds, with Little CMS."""
    facts = reader.facts
    if facts.icc_profile is None:
        return Finding("ICC profile", reader.name, Verdict.ABSENT)
    try:
        space = pixel_space(facts.icc_profile)
        if space != facts.colour_space:
            detail = f"its ICC profile is for {space} pixels, the file holds {facts.colour_space}"
            return Finding("ICC profile", reader.name, Verdict.FAILED, detail)
        if space == "RGB":
            to_srgb(facts.icc_profile)
        return Finding("ICC profile", reader.name, Verdict.OK, profile_name(facts.icc_profile))
    except ProfileError as error:
        detail = f"its ICC profile {error}"
        return Finding("ICC profile", reader.name, Verdict.FAILED, detail)
