"""What every layer needs of the system: files, processes, threads, paths."""
