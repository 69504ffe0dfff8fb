"""Texts, tokenizers and chats."""
