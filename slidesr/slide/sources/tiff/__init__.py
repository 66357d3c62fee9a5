"""TIFF as it is stored: what a directory holds, which images a file has, and their pixels."""
