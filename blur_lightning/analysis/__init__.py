"""What blur does inside networks."""
