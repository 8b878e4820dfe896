"""What this machine really takes: `single` beside busy neighbours, links, and what wrappers add. All of it is kept."""
