"""Questions about finished models, each a folder."""
