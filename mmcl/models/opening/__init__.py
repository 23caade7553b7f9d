"""Models by their names: what a folder or repository holds, and how it becomes a `DualEncoder`."""
