"""How torch runs a step under each layout."""
