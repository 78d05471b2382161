"""Bridges: a Potential as another engine wants it, and back. One file each; each imports its engine and no other."""
