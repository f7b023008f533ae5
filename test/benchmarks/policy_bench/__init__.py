"""Benchmark of the policy library: `python -m policy_bench --help`, or `make bench`."""
