"""What a notebook works with: grids that are fitted, probes that are taken away, answers that are scored."""
