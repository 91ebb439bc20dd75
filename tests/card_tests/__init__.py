"""What a card's allocator does, measured in processes of the interpreter that FAKE_CARD names (CONTRIBUTING.md)."""
