"""Training of the histology encoder, the network of the perceptual loss."""
