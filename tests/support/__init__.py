"""What several test modules need: slides, models, files and processes made for a test."""
