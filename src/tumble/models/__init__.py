"""Models: Batch → per-atom energies and optional direct heads. One file or folder each; none imports another."""
