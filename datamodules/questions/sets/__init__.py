"""Question sets that come with the package: data files and the scripts that write them."""
