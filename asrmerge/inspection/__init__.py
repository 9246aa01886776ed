"""What models have in common and where they differ, before they are merged."""
