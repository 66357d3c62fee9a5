"""The findings of a verification: one per check and reader."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    """The result of a check. Only FAILED makes a file bad."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"  # the file lacks it, or the reader does not support such files
    NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Finding:
    """One check: its name, the reader or library, the result, and details or a remedy."""

    check: str
    by: str
    outcome: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """All findings about one file."""

    path: Path
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        return [each for each in self.findings if each.outcome is Verdict.FAILED]

    @property
    def is_good(self) -> bool:
        return not self.failures
