"""The gate: one run, or repeats of it, judged by rules and against a baseline file."""
