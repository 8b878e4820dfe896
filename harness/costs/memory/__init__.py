"""What a step needs."""
