"""The Lightning modules: what every grid of probes shares, and the probes that one can choose."""
