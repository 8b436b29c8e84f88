"""From questions to cell blocks: the language-model stages, their cache, and the Lightning datamodule above them."""
