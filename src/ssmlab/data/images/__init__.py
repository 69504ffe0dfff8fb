"""Labelled images in the formats that people have."""
