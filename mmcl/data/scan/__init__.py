"""One look at every image of a data set: what its file says, whether it can be read, and hashes of what it shows."""
