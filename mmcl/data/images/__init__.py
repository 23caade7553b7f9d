"""Images: where they are kept, and how they are decoded."""
