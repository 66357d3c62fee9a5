"""Training of the histology encoder, which the perceptual loss compares images with."""
