"""Conversations about images: training, answering, and what answers are worth."""
