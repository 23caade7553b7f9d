"""What opens a run for the doctor: its files, records, data and models."""
