"""The parts of benchmarks/peers.py: workers, workloads, and what is written about them."""
