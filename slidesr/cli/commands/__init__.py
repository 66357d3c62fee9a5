"""One module for each command of `slidesr`."""
