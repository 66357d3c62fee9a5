"""From upscaled blocks to a slide on disk: encoding, the pyramid, and the container."""
