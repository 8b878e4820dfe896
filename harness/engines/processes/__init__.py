"""The processes of a cell."""
