"""Time to quality of lfm_np and its peers: ``python -m benchmarks list|run|report``.

Objectives, data sets and solvers are apart, one file a competitor (`benchmarks.solvers`); `benchmarks.runner` runs
the solvers side by side, iteration by iteration; docs/benchmarks.md explains what is measured.
"""
