"""Models that see and answer: an image encoder, a projector, and a language model that reads the image's tokens."""
