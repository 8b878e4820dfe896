"""How fast devices and links are."""
