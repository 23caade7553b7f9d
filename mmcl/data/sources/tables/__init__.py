"""Tables: CSV, TSV, JSON lines and Parquet, with their damages told by line."""
