"""Networks with their weights: finding, reading, writing and running them."""
