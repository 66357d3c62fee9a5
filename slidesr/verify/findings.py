"""What a verification finds: one line a check and reader."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    """How a check ended. Only FAILED makes a file a bad one."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"  # the file does not say it, or the reader is not made for such a file
    NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Finding:
    """A check, by whom it was made, how it ended, and what was seen or how to mend it."""

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
