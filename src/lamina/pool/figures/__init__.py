"""What everything uses, and the limits that follow from it."""
