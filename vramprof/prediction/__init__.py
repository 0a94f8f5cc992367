"""What the memory should be: the GPU catalog."""
