"""From a TOML text to a plan."""
