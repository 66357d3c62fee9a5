"""The independent readers: one module per library, behind one protocol."""
