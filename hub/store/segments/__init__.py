"""Received objects on disk: the segments, the extents that they are made of, their log."""
