"""Networks with their weights, ready for use: found, read, written, run on a device."""
