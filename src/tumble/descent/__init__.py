"""Descent: structures walking downhill together, and whether they have arrived."""
