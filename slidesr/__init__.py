"""Super-resolution of whole pathology slides with WA-SRGAN: a slide in, a slide out."""

from __future__ import annotations

__version__ = "0.1.0"
