"""Benchmarks: what Relief costs, as ratios to what it stands beside, all measured in one run (``make bench``)."""
