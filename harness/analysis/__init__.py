"""From rows and frames to findings: pure functions that know nothing of files and draw nothing."""
