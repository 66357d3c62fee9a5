"""Regions of a slide: tissue, and the user's annotations."""
