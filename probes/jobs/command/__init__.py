"""What people type: options, overrides, keys, folders, and what is said of their mistakes."""
