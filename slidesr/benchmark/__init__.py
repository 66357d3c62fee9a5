"""The comparison of methods on images whose high resolution is known, and the report of it."""
