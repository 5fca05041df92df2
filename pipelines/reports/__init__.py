"""The decision for people: terminal table, Markdown note, one self-contained HTML file."""
