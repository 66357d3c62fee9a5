"""Where the pixels of a slide come from: one module for each library, behind one protocol."""
