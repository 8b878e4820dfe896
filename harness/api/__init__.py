"""All that an author of a plugin reads."""
