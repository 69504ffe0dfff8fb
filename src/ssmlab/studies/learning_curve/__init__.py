"""How good models get with how many training images."""
