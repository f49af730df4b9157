"""What the demo data shows: a seed and a size -> a picture with exact labels."""
