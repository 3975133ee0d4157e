"""What at least two services need: each file one noun."""
