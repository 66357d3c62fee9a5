"""Compares methods on images with a known high resolution, and reports the results."""
