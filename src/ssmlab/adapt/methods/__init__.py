"""The methods of adaptation, one a file."""
