"""Data larger than memory: read in shards, shuffled through a buffer, with a position that fits into a checkpoint.

shuffle   `Stream`: records of all shards in a random order, and where it is as a small dictionary
texts     rows of tokens from texts, from JSON lines and from arrays of tokens
pictures  labelled pictures from tar shards, Parquet, data sets of Hugging Face, and folders
labelled  parts and classes of such pictures

Nothing here imports torch.
"""
