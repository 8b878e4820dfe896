"""The virtual cluster: real gradient mathematics in virtual-time order, on SimPy's clock."""
