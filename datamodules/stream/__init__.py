"""From tensor files on disk to blocks on the device, within a memory budget."""
