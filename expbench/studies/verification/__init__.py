"""Statements of the pages in README.md and docs/studies, each with its computation from the committed tables."""
