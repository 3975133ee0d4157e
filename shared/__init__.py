"""What at least two services need; each file is one noun."""
