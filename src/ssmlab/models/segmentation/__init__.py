"""Networks that segment images and volumes."""
