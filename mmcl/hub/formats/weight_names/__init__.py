"""One library's weights under another's names."""
