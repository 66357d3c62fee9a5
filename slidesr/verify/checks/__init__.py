"""The checks: readers agree, tiles decode, metadata follows its schema."""
