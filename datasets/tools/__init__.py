"""What check, compose and pack do, each in processes over many samples."""
