"""Assembly: whatever names BERT, a file, a text, another engine or the user."""
