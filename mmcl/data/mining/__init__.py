"""Hard negatives: found over a whole data set, kept in a file, drawn for each step."""
