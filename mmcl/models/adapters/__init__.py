"""Adapters: small trained additions to frozen towers."""
