"""A recipe chosen by the data and the machine."""
