"""OME-Zarr as it is stored, NGFF 0.1 to 0.5: its metadata, images, axes and channels."""
