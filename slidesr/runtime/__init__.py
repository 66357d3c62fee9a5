"""Files, processes, threads and paths: what all layers above use of the system."""
