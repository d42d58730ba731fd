"""What several notebooks draw."""
