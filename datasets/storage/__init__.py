"""Folders and shards, here or elsewhere: names, where their bytes are, how they are written."""
