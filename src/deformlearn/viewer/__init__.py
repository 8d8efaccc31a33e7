"""Look at registered and predicted people, data sets and templates in the browser."""
