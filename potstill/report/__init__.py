"""What a run shows: `tables` for the terminal and Markdown, `figures`, and `page` for report.html."""
