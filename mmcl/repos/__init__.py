"""Folders to repositories of the Hub and back: what may go, one commit, errors in one sentence."""
