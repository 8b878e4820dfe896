"""What steps cost: compute, links, collectives, memory. Pure functions over plain data; nothing here imports torch."""
