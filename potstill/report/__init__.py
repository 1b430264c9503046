"""What a run or a grid shows.

`sheet` is a table; `tables` and `grid_tables` make them, `formats` and `export` write them; `figures` and
`grid_figures` draw; `page` writes report.html.
"""
