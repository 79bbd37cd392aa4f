"""What tests of semantic, and of servers built on it, share: tiny models, a tokenizer, a text."""
