"""OME-Zarr: its files, where they are stored, and its metadata."""
