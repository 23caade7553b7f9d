"""What is wrong with a data set: unreadable and repeated images, poor captions, and what leaks between its splits."""
