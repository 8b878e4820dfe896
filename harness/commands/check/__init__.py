"""`harness check`: does a strategy keep what every strategy promises? The conformance suite, line by line.

Every line runs cells that are planned from a scenario and run by the engines' own supervisor, as `harness run` does:
nothing here knows an engine from inside.
"""
