"""The parts of `benchmarks/speed.py`. `worker`, `engines` and `systems` also run in the peers' own Python."""
