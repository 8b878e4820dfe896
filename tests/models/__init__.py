"""Models and modules of tests: a package, so that no `models.py` of a user in another test stands in for it."""
