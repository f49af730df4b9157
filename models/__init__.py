"""Batch -> predictions. `unet.py` has the one forward to read first."""
