"""Approve, review or decline a card payment while the card is still in the terminal.

Transaction -> Features -> Score -> Decision, and days later a Label.
"""
