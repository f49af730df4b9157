"""Labelled data is read once; what it holds and what cannot be used is reported."""
