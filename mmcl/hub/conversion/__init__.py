"""The weights of one library's model under another library's names."""
