"""What the pages about runs are made of: records as tables, errors of single people, distributions."""
