"""Networks for images, a family a file."""
