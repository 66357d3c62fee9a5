"""Writes slides: tile encoding, the pyramid, and the containers OME-TIFF, OME-Zarr and DICOM."""
