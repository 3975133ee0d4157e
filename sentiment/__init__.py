"""Say what people think of a brand: within seconds by stream, and an hour later for good by batch.

Post -> Opinion -> Mention -> Minute and hour, and one timeline of both.
"""
