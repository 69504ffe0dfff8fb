"""Text generation: states of prompts, sampling, beams, decode programs."""
