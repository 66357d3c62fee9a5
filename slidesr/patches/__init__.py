"""Training patches from whole slides: which slides, which places, which split, and the folder."""
