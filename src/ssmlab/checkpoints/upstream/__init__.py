"""Maps from the originals: LICENSE of the weights, RULES for their names, build(config) for their arguments."""
