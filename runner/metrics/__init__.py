"""What is told of a run in figures: one file a metric. :mod:`runner.metrics.registry` finds them."""
