"""Translation: from pairs of sentences to a model, and how well it translates."""
