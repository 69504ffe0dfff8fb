"""Questions about images and their answers: training, scores, instruction data."""
