"""`harness validate`: predict what others measured from what they allow as input, and say how far off it is."""
