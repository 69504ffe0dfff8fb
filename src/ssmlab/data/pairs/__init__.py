"""Sentence pairs of two languages: files, cleaning, splits, subwords and batches by tokens. torch is never needed."""
