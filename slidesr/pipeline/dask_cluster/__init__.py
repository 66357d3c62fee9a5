"""Blocks upscaled by the workers of a dask cluster; nothing else imports dask."""
