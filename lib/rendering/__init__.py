"""Fields and rays -> what a camera sees."""
