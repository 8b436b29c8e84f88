"""The language model: loading, prompts, generation, sites, capture, tokens, positions, and its cached stages."""
