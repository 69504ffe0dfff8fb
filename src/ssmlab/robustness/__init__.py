"""Transformations of images, and how models hold under them."""
