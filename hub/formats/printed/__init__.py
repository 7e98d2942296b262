"""The report for people: a page, and pictures."""
