"""Images and recordings, as models are given them and as people see them."""
