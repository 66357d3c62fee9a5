"""What must hold of a slide: readers agree, tiles decode, schemas are kept."""
