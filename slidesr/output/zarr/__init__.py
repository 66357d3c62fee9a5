"""Writes OME-Zarr: chunks and shards, local or remote storage, and NGFF metadata."""
