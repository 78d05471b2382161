"""The parts of `benchmarks/statics.py`: DFT data, answers of a potential about it, comparison, page, figure."""
