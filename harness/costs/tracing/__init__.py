"""What a model holds."""
