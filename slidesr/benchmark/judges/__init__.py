"""What judges an image beyond pixel metrics: networks, nuclei, a tumour classifier."""
