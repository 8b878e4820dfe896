"""The version, here so that nothing inside imports the face of the package."""

__version__ = "0.1.0"
