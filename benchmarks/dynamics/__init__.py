"""Parts of `dynamics.py`: what is simulated, simulations that go on, and the tables."""
