"""Images as arrays: files, resampling, degradation, colour profiles, metrics."""
