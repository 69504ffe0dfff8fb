"""What everything may use: errors, checks, files, progress, records, statistics, stamps."""
