"""What workers and the API say to each other: typed once, imported by both."""
