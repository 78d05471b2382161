"""Experiments of the 2024 study of broken symmetries, repeated with potentials of this project; see README.md."""
