"""The program in an exported file: what our potentials compute, in the part of Python that TorchScript reads.

It holds the weights of a potential and gives its numbers, and knows nothing of the rest of the package.
"""
