"""Reports: records of a run become a table, plots and one self-contained page.

    from ssmlab.reports.html import write_report      # runs/<name> -> runs/<name>/report.html and plots/*.svg
    from ssmlab.reports.comparison import comparison  # records -> the table of the page and of the terminal
    from ssmlab.reports.verdict import winner         # records -> who is better, by how much, how sure

Imports nothing of ssmlab above `errors`; matplotlib and rich are imported when they are first used.
"""
