"""Efficient transformers under one training protocol (torch only)."""
