"""Where on a slide: tissue, and what the user has annotated."""
