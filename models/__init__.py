"""The networks. `unet.py` has the one forward to read first."""

from models.unet import ModelSpec, UNet
