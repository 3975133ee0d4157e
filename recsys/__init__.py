"""The nightly top-K of an e-commerce shop: computed by night, published by one switch, looked up by day.

Event -> Interactions -> Candidates -> Ranked -> TopK.
"""
