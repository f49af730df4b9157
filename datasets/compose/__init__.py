"""Cut-out figures in rooms: images with exact masks and depth."""
