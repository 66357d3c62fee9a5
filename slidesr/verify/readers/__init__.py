"""One module for each library that reads slides, behind one protocol."""
