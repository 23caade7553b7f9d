"""What is wrong with a training, with evidence and a next step."""
