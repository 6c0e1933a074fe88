"""Desired and applied access at APIM."""
