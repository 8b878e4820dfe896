"""What a step takes."""
