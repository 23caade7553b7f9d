"""What the `datasets` library knows: data on the Hub, downloaded or streamed, and what it saved."""
