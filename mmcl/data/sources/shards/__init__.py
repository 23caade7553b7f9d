"""WebDataset shards: read at any offset through an index."""
