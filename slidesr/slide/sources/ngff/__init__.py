"""What an OME-Zarr store says of its images, in NGFF 0.1 to 0.5."""
