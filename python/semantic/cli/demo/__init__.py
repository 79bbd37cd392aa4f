"""`semantic demo`: four agents, one system prompt, two servers, and a table that compares them."""

from semantic.cli.demo.command import register

__all__ = ["register"]
