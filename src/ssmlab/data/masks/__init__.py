"""Images and volumes with masks."""
