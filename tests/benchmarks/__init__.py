"""Speed and memory, as ratios from one run: `make bench`. Nothing here is collected by pytest."""
