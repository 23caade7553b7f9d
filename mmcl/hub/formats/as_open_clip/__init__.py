"""The `open_clip` format: each tower in the words of open_clip's config."""
