"""Tensors on several devices: parts of a quantized weight, gathered, and computed with where they lie."""
