"""From a slide to an upscaled slide: checked, cut into blocks, upscaled, written."""
