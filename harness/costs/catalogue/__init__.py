"""Devices, links and clusters by name."""
