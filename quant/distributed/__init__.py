"""Several devices, one model: parts of a quantized weight, cut, gathered, and computed with where they lie."""
