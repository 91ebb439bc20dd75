"""The VQ-VAE: encoder, quantizer and codebook, decoder, semantic heads, transformations."""
