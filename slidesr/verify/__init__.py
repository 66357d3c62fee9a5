"""Opens a slide with every independent reader installed and reports where they disagree."""

from slidesr.verify.findings import Finding, Verdict, Verification
from slidesr.verify.run import verify

__all__ = ["Finding", "Verdict", "Verification", "verify"]
