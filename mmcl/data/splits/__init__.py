"""Splits: their names, made by a hash, kept in files, and what two of them share."""
