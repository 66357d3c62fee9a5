"""Cuts training patches from whole slides: inputs, sampling, splits and the output folder."""
