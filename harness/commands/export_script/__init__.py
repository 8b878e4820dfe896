"""A plain PyTorch script of a cell: facts, template, and the proof that it trains what the cell trained."""
