"""Measures of an audit: each is a pure function of a potential or its orbit and one structure, and a plain number."""
