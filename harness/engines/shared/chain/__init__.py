"""Any module cut into the stages of a pipeline: each runs the model's own forward, others' blocks are stood in for."""
