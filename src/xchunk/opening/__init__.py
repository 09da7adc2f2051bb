"""Opening what a user names, in the chunks that fit its use."""
